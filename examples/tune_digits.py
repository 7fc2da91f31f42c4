"""Tune the reference recipe of a digits task at its own batch size, on the validation split, and nothing else.

    python examples/tune_digits.py --output results/digits-reference/tuning.json
    python examples/tune_digits.py --task digits/mlp-plain --output results/digits-reference/tuning-plain.json

Every learning rate of the grid is trained with the same seeds, which no study uses (studies count from 0). The choice
is the highest mean validation accuracy; the test split is never read. The large batch plays no part.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import rebatch

LEARNING_RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
SEEDS = range(1000, 1010)


def validation_accuracy(lr: float, seed: int, name: str = "digits/mlp") -> float:
    """Validation accuracy in percent at the last step of the reference recipe with another learning rate."""
    task = rebatch.tasks.TASKS[name]
    rows = list(rebatch.train(task.model(seed), task.data(seed), task.recipe.with_lr(lr), seed=seed, evaluations=1))
    return rows[-1]["validation_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--task", default="digits/mlp", choices=["digits/mlp", "digits/mlp-plain"])
    options = parser.parse_args()
    output = options.output
    torch.set_num_threads(1)
    table: list[dict[str, Any]] = []
    for lr in LEARNING_RATES:
        values = [validation_accuracy(lr, seed, options.task) for seed in SEEDS]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        table.append({"lr": lr, "mean": mean, "standard_deviation": spread, "values": values})
        print(f"lr {lr:<7} validation accuracy {mean:.3f} %  (standard deviation over seeds {spread:.3f})")
    best = max(table, key=lambda row: row["mean"])
    print(f"chosen: lr {best['lr']}")
    if output is not None:
        task = "" if options.task == parser.get_default("task") else f"--task {options.task} "
        about = {"command": f"python examples/tune_digits.py {task}--output {output}", "seeds": list(SEEDS)}
        output.write_text(json.dumps({**about, "chosen": best["lr"], "grid": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
