"""How often does clipping bind? Steps whose gradient is longer than the threshold, of the arms that it is said to save.

    python benchmarks/clipping.py [TASK ...] [--data-dir DIR] [--output results/benchmarks/clipping.json]

Hoffer et al. (2017) clip where noise stands in for a larger step, since it diverges otherwise. One run per arm of
`hoffer-noise`, seed 0: the small batch, the large one with rate and ghosts, the large one with noise; of large tasks
the small batch's first epochs and the first epoch of the others. The length is that of the whole gradient, before
clipping. Where a task's recipe does not clip, the paper's threshold of 5 is used.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from rebatch import Epochs, Execution, Recipe, tasks, train
from rebatch.observation import Observation, Observer
from rebatch.study.environment import environment
from rebatch.study.studies.hoffer_2017.common import SMALL
from rebatch.study.studies.hoffer_2017.noise import CLIP, LR_GBN, NOISE, UNCLIPPED, noise_design

# Epochs of the small batch and of the large ones; None is the whole recipe.
LENGTHS: dict[str, tuple[float | None, float | None]] = {
    "digits/mlp": (None, None),
    "digits/mlp-plain": (None, None),
    "mnist/f1": (4.0, None),
    "cifar10/resnet8": (1.0, 1.0),
}
BFLOAT16 = Execution(precision="bfloat16")


class Lengths(Observer):
    """Of every step's gradient."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def step(self, observation: Observation) -> None:
        """Before clipping."""
        gradients = [p.grad for p in observation.model.parameters() if p.grad is not None]
        self.found.append(float(torch.nn.utils.get_total_norm(gradients)))


def measured(name: str, arm: str, recipe: Recipe, data_dir: Path | None) -> dict[str, Any]:
    """One run of an arm."""
    task = tasks.TASKS[name]
    data, lengths = task.data(0, data_dir), Lengths()
    execution = Execution() if name.startswith("digits") else BFLOAT16
    rows = train(task.model(0, data), data, recipe, seed=0, evaluations=1, observers=[lengths], execution=execution)
    last = list(rows)[-1]
    return {
        "task": name,
        "arm": arm,
        "steps": len(lengths.found),
        "longer": sum(length > CLIP for length in lengths.found),
        "longest": max(lengths.found),
        "clipped": recipe.max_grad_norm is not None,
        "validation_accuracy": last.get("validation_accuracy", math.nan),
    }


def runs(name: str, data_dir: Path | None) -> list[dict[str, Any]]:
    """The arms of a task."""
    recipes = {arm.name: arm.recipe for arm in noise_design(tasks.TASKS[name], "cpu").arms}
    small, large = LENGTHS.get(name, (1.0, 1.0))
    found = []
    for arm, epochs in ((SMALL, small), (LR_GBN, large), (NOISE, large), (UNCLIPPED, large)):
        recipe = recipes[arm] if epochs is None else recipes[arm].replace(budget=Epochs(epochs))
        found.append(measured(name, arm, recipe, data_dir))
        print(markdown(found[-1:]), end="", file=sys.stderr, flush=True)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """The page's rows."""
    return "".join(
        f"| `{row['task']}` | {row['arm']} | {row['longer']} of {row['steps']:,} | {row['longest']:.1f} | "
        f"{row['validation_accuracy']:.1f} |\n"
        for row in found
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(LENGTHS))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for name in options.tasks for row in runs(name, options.data_dir)]
    print(markdown(found), end="")
    if options.output is not None:
        command = " ".join(["python benchmarks/clipping.py", *options.tasks])
        document = {"command": command, **environment(), "threshold": CLIP, "seed": 0, "runs": found}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
