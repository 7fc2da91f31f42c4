"""Tune the learning rate of a task's reference recipe at its own batch size, on the validation split, and nothing else.

    python examples/tune_reference.py --output results/digits-reference/tuning.json
    python examples/tune_reference.py --task digits/mlp-plain --output results/digits-reference/tuning-plain.json
    python examples/tune_reference.py --task cifar10/proxy --lr 0.1 0.2 0.4 0.8 1.6 --seeds 1 --precision bfloat16 \\
        --channels-last --output results/proxy-reference/tuning.json

Every learning rate of the grid is trained with the same seeds, which no study uses (studies count from 0). The choice
is the highest mean validation accuracy; the test split is never read. The large batch plays no part.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import rebatch

DIGITS = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
FIRST_SEED, SEEDS = 1000, 10


def validation_accuracy(
    lr: float, seed: int, name: str = "digits/mlp", execution: rebatch.Execution | None = None
) -> float:
    """Validation accuracy in percent at the last step of the reference recipe with another learning rate."""
    task = rebatch.tasks.TASKS[name]
    data, recipe = task.data(seed), task.recipe.with_lr(lr)
    *_, last = rebatch.train(task.model(seed, data), data, recipe, seed=seed, evaluations=1, execution=execution)
    return last["validation_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--task", default="digits/mlp", choices=sorted(rebatch.tasks.TASKS))
    parser.add_argument("--lr", type=float, nargs="+", default=DIGITS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--precision", default="float32")
    parser.add_argument(
        "--channels-last", dest="memory_format", action="store_const", const="channels_last", default="contiguous"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    execution = rebatch.Execution(precision=options.precision, memory_format=options.memory_format)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    table: list[dict[str, Any]] = []
    for lr in options.lr:
        values = [validation_accuracy(lr, seed, options.task, execution) for seed in seeds]
        row: dict[str, Any] = {"lr": lr, "mean": statistics.mean(values), "values": values}
        if len(values) > 1:
            row["standard_deviation"] = statistics.stdev(values)
        table.append(row)
        print(f"lr {lr:<7} validation accuracy {row['mean']:.3f} %  ({len(values)} seeds)", flush=True)
    best = max(table, key=lambda row: row["mean"])
    print(f"chosen: lr {best['lr']}")
    if options.output is not None:
        command = " ".join(["python", "examples/tune_reference.py", *sys.argv[1:]])
        document = {"command": command, "seeds": list(seeds), "chosen": best["lr"], "grid": table}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
