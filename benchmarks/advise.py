"""Is the advice good? Time to a loss at the advised batch size and rate, beside the best of an exhaustive grid.

    python benchmarks/advise.py [--task digits/mlp] [--start 4 512] [--output results/benchmarks/advise-digits.json]

From a recipe at a batch size far too small and from one far too large, with 5 seeds each: `rebatch advise` measures
and answers, knowing nothing of what follows. Then all batch sizes (powers of two) and rates (powers of two) of a grid
are trained from fresh weights at a constant rate until they first reach the validation loss that the starting recipe
has at the end of its budget, 5 seeds each; so are the advised pair and the starting recipe itself. Regret is the
advised pair's time over the least of the grid, minus 1: mean steps times seconds of a step, measured once by `rebatch
measure throughput`'s code for all of them, so that a busy moment of the machine favors nobody. The grid is the fair
baseline because nobody can choose better within it, and it is tuned on the very seeds that it is judged by. Predicted
steps over the starting recipe's, times those that it took, are compared with what the advised pair took.
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rebatch import Epochs, Execution, Recipe, Steps, train
from rebatch.critical_batch import climb, first_passage
from rebatch.data.sets import Splits
from rebatch.schedule import Constant
from rebatch.study.advising import measure_advice
from rebatch.study.branch import validation_loss
from rebatch.study.capacity import Capacity, measure_capacity
from rebatch.study.capacity_worker import Workload
from rebatch.study.environment import environment
from rebatch.tasks import TASKS, Task

SEEDS = range(5)
# The validation loss is looked at so often on the way to it.
LOOKS = 60


@dataclass(frozen=True)
class Race:
    """A task, the loss to reach, and the time of a step of each batch size."""

    task: Task
    data: Splits
    capacity: Capacity
    target: float
    most_examples: int

    def steps(self, recipe: Recipe, seed: int) -> float:
        """Steps until the validation loss is below the target; inf where it stays above."""
        steps = max(LOOKS, self.most_examples // recipe.batch_size)
        flat = recipe.replace(schedule=Constant(), budget=Steps(steps))
        model = self.task.model(seed, self.data)
        start = validation_loss(model, self.data, Execution())
        rows = train(model, self.data, flat, seed=seed, evaluations=LOOKS)
        looks = ((int(row["step"]), row["validation_loss"]) for row in rows if "validation_loss" in row)
        return first_passage(looks, self.target, start=start)

    def mean_steps(self, recipe: Recipe) -> float:
        """Over the seeds."""
        return statistics.fmean(self.steps(recipe, seed) for seed in SEEDS)

    def seconds(self, batch_size: int) -> float:
        """Of a whole step of one micro-batch."""
        assert self.capacity.update_seconds is not None
        return self.capacity.seconds(batch_size) + self.capacity.update_seconds.estimate


def final_loss(task: Task, data: Splits, recipe: Recipe) -> float:
    """What the starting recipe reaches, mean over the seeds."""
    ends = []
    for seed in SEEDS:
        *_, last = train(task.model(seed, data), data, recipe, seed=seed, evaluations=1)
        ends.append(last["validation_loss"])
    return statistics.fmean(ends)


def best_of_grid(race: Race, recipe: Recipe, batch_sizes: list[int]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """All cells, and the quickest: at each batch size rates go up and down until both neighbors are slower."""
    cells = []
    for size in batch_sizes:
        center = recipe.optimizer.lr * math.sqrt(size / recipe.batch_size)
        found: dict[int, float] = {}

        def steps(place: int, size: int = size, center: float = center, found: dict[int, float] = found) -> float:
            if place not in found:
                found[place] = race.mean_steps(recipe.replace(batch_size=size).with_lr(center * 2.0**place))
            return found[place]

        climb(steps, most=10)
        cells += [
            {"batch_size": size, "lr": center * 2.0**place, "steps": taken, "seconds": taken * race.seconds(size)}
            for place, taken in sorted(found.items())
        ]
    return cells, min(cells, key=lambda cell: cell["seconds"])


def judge(name: str, start: Recipe, data_dir: Path | None) -> dict[str, Any]:
    """From one starting recipe."""
    task = TASKS[name]
    data = task.data(0, data_dir)
    workload = Workload(name, start, threads=1, data_dir=data_dir)
    capacity = measure_capacity(workload)
    target = final_loss(task, data, start)
    examples = len(data.train)
    race = Race(task, data, capacity, target, most_examples=40 * examples)
    sizes = [2**power for power in range(1, 20) if 4 <= 2**power <= examples // 2]
    cells, best = best_of_grid(race, start, sizes)
    print(f"start {start.batch_size}: target {target:.4g}, best of the grid {best}", flush=True)
    own, answers = race.mean_steps(start), []
    for seed in SEEDS:
        advised = measure_advice(task, data, Workload(name, start, seed=seed, threads=1, data_dir=data_dir))
        answer: dict[str, Any] = {"seed": seed, "answer": "unknown", "doubts": advised.doubts}
        chosen = start.replace(schedule=Constant())
        if advised.advice is not None:
            answer |= {"answer": advised.advice.answer, "likely": advised.advice.likely}
            if advised.transfer is not None and advised.advice.answer == "move":
                chosen = advised.transfer.recipe.as_tuned()
                share = advised.advice.best.steps.estimate / advised.advice.today.steps.estimate
                answer["predicted_steps"] = share * own
        taken = race.mean_steps(chosen)
        answer |= {"batch_size": chosen.batch_size, "lr": chosen.optimizer.lr, "steps": taken}
        answer["regret"] = taken * race.seconds(chosen.batch_size) / best["seconds"] - 1.0
        answers.append(answer)
        predicted = answer.get("predicted_steps", math.nan)
        print(
            f"  seed {seed}: {answer['answer']}, batch size {chosen.batch_size}, rate {chosen.optimizer.lr:.3g}, steps "
            f"{taken:.0f} (predicted {predicted:.0f}), regret {100 * answer['regret']:.0f} %",
            flush=True,
        )
    return {
        "start": start.batch_size,
        "lr": start.optimizer.lr,
        "target": target,
        "own_steps": own,
        "best": best,
        "answers": answers,
        "grid": cells,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits/mlp")
    parser.add_argument("--start", type=int, nargs="+", default=[4, 512])
    parser.add_argument("--epochs", type=float, nargs="+", default=[10.0, 60.0], help="Budget of each start.")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = TASKS[options.task].recipe
    found = []
    for size, epochs in zip(options.start, options.epochs, strict=True):
        lr = reference.optimizer.lr * math.sqrt(size / reference.batch_size)
        start = reference.replace(batch_size=size, schedule=Constant(), budget=Epochs(epochs)).with_lr(lr)
        found.append(judge(options.task, start, options.data_dir))
    regrets = [answer["regret"] for each in found for answer in each["answers"]]
    print(f"regret: mean {100 * statistics.fmean(regrets):.0f} %, worst {100 * max(regrets):.0f} %")
    if options.output is not None:
        starts, budgets = " ".join(map(str, options.start)), " ".join(f"{each:g}" for each in options.epochs)
        command = f"python benchmarks/advise.py --task {options.task} --start {starts} --epochs {budgets}"
        about = {"command": command, "threads": 1, "seeds": len(SEEDS), "limits": {"regret": 0.25, "steps_factor": 1.5}}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        document = {**about, **environment(), "cases": found}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
