"""What does measuring cost, as a share of a step? Ours beside BackPACK and Cockpit, on one small CNN, in one run.

    python benchmarks/measure.py [--output results/benchmarks/measure.json]

Three convolutions and a linear layer on 32 x 32 images, batch 128, eager float32, SGD with momentum: every peer below
can measure it. The baseline of each row is the same loop without measuring. It is the fair one because nothing else
differs: same model, same batches, same optimizer, in blocks that take turns. Times are of the process, on one thread:
other work on the machine then counts less.

Ours has noise scale and weight distance, both at every step: over 4 micro-batches, and over whole batches (a part of
every fourth is shown again). Curvature is looked at every 100 steps. BackPACK gives squared norms of each example's
gradient, from which the noise scale follows; Cockpit its own presets, whose quantities differ from ours (gradient norm,
distances, curvature along the step; no noise scale). Peers that are not installed are left out.

    pip install backpack-for-pytorch cockpit-for-pytorch "setuptools<81"    # in an environment of their own
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rebatch
from rebatch.measure import Curvature, NoiseScale, WeightDistance
from rebatch.study.environment import environment

BATCH, MICRO = 128, 32
# A block is this many steps; blocks of the two loops take turns so often.
STEPS, REPEATS = 10, 9
# Curvature is compared in blocks with one look each.
LOOK_EVERY = 100
CURVATURE = "ours, curvature every 100 steps"

Step = Callable[[], None]


def cnn() -> nn.Sequential:
    """66,570 parameters, no norm: examples can be told apart by all peers."""
    torch.manual_seed(0)
    widths = [(3, 32), (32, 64), (64, 64)]
    layers = [layer for c, k in widths for layer in (nn.Conv2d(c, k, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def images() -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, 3, 32, 32, generator=numbers)
    return inputs, torch.randint(0, 10, (BATCH,), generator=numbers)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def loop(
    micro_batch_size: int, measure: Callable[[nn.Module, torch.optim.Optimizer], rebatch.measure.Watch] | None
) -> Step:
    """A plain loop's step, watched or not."""
    model, (inputs, targets) = cnn(), images()
    optimizer = sgd(model)
    watch = measure(model, optimizer) if measure else None
    pieces = list(zip(torch.split(inputs, micro_batch_size), torch.split(targets, micro_batch_size), strict=True))

    def step() -> None:
        optimizer.zero_grad()
        for some, labels in pieces:
            (F.cross_entropy(model(some), labels) / len(pieces)).backward()  # type: ignore[no-untyped-call]
        if watch is not None:
            watch.step()
        optimizer.step()
        if watch is not None:
            watch.row()

    return step


def both(model: nn.Module, optimizer: torch.optim.Optimizer) -> rebatch.measure.Watch:
    """Noise scale and weight distance."""
    return rebatch.watch(model, optimizer, batch_size=BATCH, measure=[NoiseScale(), WeightDistance()])


def curvature(model: nn.Module, optimizer: torch.optim.Optimizer) -> rebatch.measure.Watch:
    """The top eigenvalue of a quarter of the batch, every 100 steps."""
    inputs, targets = (each[: BATCH // 4] for each in images())
    looking = Curvature(lambda model: F.cross_entropy(model(inputs), targets), every=LOOK_EVERY)
    return rebatch.watch(model, optimizer, batch_size=BATCH, measure=[looking])


def backpack() -> Step:
    """Squared norms of each example's gradient, all layers."""
    from backpack import backpack as extending
    from backpack import extend
    from backpack.extensions import BatchL2Grad

    model, loss, (inputs, targets) = extend(cnn()), extend(nn.CrossEntropyLoss()), images()
    optimizer = sgd(model)

    def step() -> None:
        optimizer.zero_grad()
        with extending(BatchL2Grad()):
            loss(model(inputs), targets).backward()
        squares = torch.stack([each.batch_l2 for each in model.parameters()]).sum(0)
        assert squares.shape == (BATCH,)
        optimizer.step()

    return step


def cockpit(preset: str) -> Step:
    """A preset at every step."""
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    model, loss, single = extend(cnn()), extend(nn.CrossEntropyLoss()), nn.CrossEntropyLoss(reduction="none")
    inputs, targets = images()
    optimizer, watcher, count = sgd(model), None, 0
    watcher = Cockpit(model.parameters(), quantities=configuration(preset))

    def step() -> None:
        nonlocal count
        optimizer.zero_grad()
        outputs = model(inputs)
        mean = loss(outputs, targets)
        about = {
            "batch_size": BATCH,
            "individual_losses": single(outputs, targets),
            "loss": mean,
            "optimizer": optimizer,
        }
        with watcher(count, info=about):
            mean.backward(create_graph=watcher.create_graph(count))
        optimizer.step()
        count += 1

    return step


def seconds(step: Step, steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        step()
    return time.process_time() - start


def compare(measured: Step, plain: Step, steps: int, repeats: int) -> dict[str, float]:
    """Time with measuring over time without, in blocks that take turns."""
    seconds(measured, steps), seconds(plain, steps)  # both are warm, and the first look at curvature is over
    ratios, times = [], []
    for repeat in range(repeats):
        ways = {"measured": measured, "plain": plain}
        timed = {name: seconds(ways[name], steps) for name in (ways if repeat % 2 else reversed(ways))}
        ratios.append(timed["measured"] / timed["plain"])
        times.append(timed["plain"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": middle,
        "ratio_low_quartile": low,
        "ratio_high_quartile": high,
        "milliseconds_plain": 1e3 * statistics.median(times) / steps,
    }


def cases() -> dict[str, tuple[Callable[[], Step], Callable[[], Step]]]:
    """Name to the measured loop and the plain one."""
    found: dict[str, tuple[Callable[[], Step], Callable[[], Step]]] = {
        f"ours, {BATCH // MICRO} micro-batches": (lambda: loop(MICRO, both), lambda: loop(MICRO, None)),
        "ours, whole batches": (lambda: loop(BATCH, both), lambda: loop(BATCH, None)),
    }
    found[CURVATURE] = (lambda: loop(BATCH, curvature), lambda: loop(BATCH, None))
    if find_spec("backpack") is not None:
        found["BackPACK, squared norms of examples"] = (backpack, lambda: loop(BATCH, None))
    if find_spec("cockpit") is not None:
        found["Cockpit, economy"] = (lambda: cockpit("economy"), lambda: loop(BATCH, None))
        found["Cockpit, business"] = (lambda: cockpit("business"), lambda: loop(BATCH, None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own
    table: dict[str, Any] = {}
    for name, (measured, plain) in cases().items():
        steps, repeats = (LOOK_EVERY, 5) if name == CURVATURE else (STEPS, REPEATS)
        table[name] = row = compare(measured(), plain(), steps, repeats)
        print(
            f"{name:<36} {row['ratio']:.3f} times the plain step of {row['milliseconds_plain']:.1f} ms, "
            f"quartiles {row['ratio_low_quartile']:.3f} and {row['ratio_high_quartile']:.3f}",
            flush=True,
        )
    if output is not None:
        about = {"command": f"python benchmarks/measure.py --output {output}", "threads": 1, "seed": 0}
        limits = {"accumulation or ranks": 1.05, "whole batches": 1.10, "curvature": 1.05}
        output.parent.mkdir(parents=True, exist_ok=True)
        document = {**about, **environment(), "limits": limits, "steps": STEPS, "repeats": REPEATS, "cases": table}
        output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
