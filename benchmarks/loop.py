"""What does our loop cost beside a bare hand-written one? Milliseconds per step, side by side in one run.

    python benchmarks/loop.py [--output results/benchmarks/loop.json]

`mnist/f1` at batch 128 with the paper's recipe (momentum, weight decay, clipping, drops). The baseline is what a
careful person writes by hand over the same tensors in memory: same model, same order, same augmentation, torch's fused
SGD, no logging. It is the fair one because nothing can be taken out of it without changing the numbers: both end with
the same weights. Ours adds batches that can be rebuilt, cutting, observers, rows and the schedule. Neither evaluates.
Images are random numbers of MNIST's shape: the time of a step does not depend on what they show.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from rebatch import Recipe, Steps, draws, tasks, train
from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import DataSet, Splits
from rebatch.schedule import lr_factor
from rebatch.study.environment import environment

EXAMPLES, STEPS, REPEATS = 55_000, 100, 15


def images(augmented: bool) -> Splits:
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), dtype=torch.uint8, generator=numbers)
    data = DataSet(inputs, torch.randint(0, 10, (EXAMPLES,), generator=numbers))
    few = data.subset(range(2))
    return Splits(data, few, few, (PadCrop(padding=2), Flip()) if augmented else (), Normalize((0.5,), (0.5,)))


def ours(model: nn.Module, data: Splits, recipe: Recipe) -> None:
    for _ in train(model, data, recipe, seed=0, evaluations=1):
        pass


def by_hand(model: nn.Module, data: Splits, recipe: Recipe) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    inputs, targets, normalize = data.train.inputs, data.train.targets, data.normalize
    assert normalize is not None
    tables = [
        (a, torch.from_numpy(a.draw(partial(draws.generator, 0, a.purpose), 0, EXAMPLES))) for a in data.augmentations
    ]
    order = torch.from_numpy(draws.order(0, 0, EXAMPLES))
    for step in range(STEPS):
        optimizer.zero_grad()  # first, as ours does: freed before the forward pass needs memory
        chosen = order[step * 128 : (step + 1) * 128]
        batch = inputs.index_select(0, chosen)
        for augmentation, table in tables:
            batch = augmentation.apply(batch, table.index_select(0, chosen))
        loss = F.cross_entropy(model(normalize(batch)), targets.index_select(0, chosen))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.param_groups[0]["lr"] = 0.1 * lr_factor(recipe.schedule, step / STEPS)
        optimizer.step()


def seconds(loop: Callable[[nn.Module, Splits, Recipe], None], data: Splits, recipe: Recipe) -> tuple[float, nn.Module]:
    model = tasks.TASKS["mnist/f1"].model()
    start = time.perf_counter()
    loop(model, data, recipe)
    return time.perf_counter() - start, model


def compare(augmented: bool) -> dict[str, float]:
    data, recipe = images(augmented), tasks.TASKS["mnist/f1"].recipe.replace(budget=Steps(STEPS))
    pairs = []
    for repeat in range(REPEATS):
        first, second = (ours, by_hand) if repeat % 2 else (by_hand, ours)
        timed = {loop: seconds(loop, data, recipe) for loop in (first, second)}
        pairs.append((timed[ours][0], timed[by_hand][0]))
    same = zip(timed[ours][1].parameters(), timed[by_hand][1].parameters(), strict=True)
    difference = max((a - b).abs().max().item() for a, b in same)
    assert difference < 1e-4, f"the two loops must train the same model, weights differ by {difference}"
    low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    return {
        "ratio": middle,
        "ratio_low_quartile": low,
        "ratio_high_quartile": high,
        "milliseconds_ours": 1e3 * statistics.median(a for a, _ in pairs) / STEPS,
        "milliseconds_by_hand": 1e3 * statistics.median(b for _, b in pairs) / STEPS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {platform.machine()}; {REPEATS} repeats of {STEPS} steps")
    table = {name: compare(augmented) for name, augmented in (("with augmentation", True), ("without", False))}
    for name, row in table.items():
        print(
            f"{name:<18} ours {row['milliseconds_ours']:.2f} ms, by hand {row['milliseconds_by_hand']:.2f} ms a step, "
            f"ratio {row['ratio']:.3f}, quartiles {row['ratio_low_quartile']:.3f} and {row['ratio_high_quartile']:.3f}"
        )
    if output is not None:
        about = {"command": f"python benchmarks/loop.py --output {output}", "threads": 1, "seed": 0}
        output.parent.mkdir(parents=True, exist_ok=True)
        document = {**about, **environment(), "limit": 1.05, "cases": table}
        output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
