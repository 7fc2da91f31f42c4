"""How fast does `cifar10/resnet44` train, beside a plain PyTorch script? Examples per second, side by side in one run.

    python benchmarks/resnet44.py [--threads 1 2] [--compile] [--output results/benchmarks/resnet44.json]

The baseline is what most people write: a torch DataLoader with augmentation example by example (in worker processes
where there are several threads, if that is faster), eager float32, fused SGD, batch 128, clipping at 5. Ours is
`rebatch.train` in the best execution: float32 or bfloat16, contiguous or channels_last; if asked, those of the faster
precision compiled too. A first look at all of them chooses; then the two chosen take turns, and a ratio is that of
neighbours in time. Neither evaluates. A rate leaves out the first steps, and so the compiling: a minute or two, once.
Images are random numbers of CIFAR's shape: the time of a step does not depend on what they show.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rebatch import Execution, Steps, tasks, train
from rebatch.data.augment import IMAGENET_STATISTICS, Flip, PadCrop
from rebatch.data.sets import DataSet, Splits
from rebatch.observation import Observation, Observer
from rebatch.study.environment import environment

EXAMPLES, BATCH = 45_000, 128
WARM_UP, STEPS, REPEATS = 2, 6, 9
TASK = tasks.TASKS["cifar10/resnet44"]
TARGET, AIM = 2.5, 3.3


class PerExample(Dataset[tuple[Tensor, int]]):
    """Pad, crop, flip and normalize one image at a time, as a `transform` does."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.mean = torch.tensor(IMAGENET_STATISTICS.mean).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STATISTICS.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.data.inputs[index], (4, 4, 4, 4), value=127)
        down, right, mirrored = (int(torch.randint(0, limit, ())) for limit in (9, 9, 2))
        image = image[:, down : down + 32, right : right + 32]
        image = image.flip(-1) if mirrored else image
        return (image.float().div_(255) - self.mean) / self.std, int(self.data.targets[index])


def images() -> Splits:
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (EXAMPLES, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    data = DataSet(inputs, torch.randint(0, 10, (EXAMPLES,), generator=numbers))
    few = data.subset(range(2))
    return Splits(data, few, few, (PadCrop(padding=4, fill=127), Flip()), IMAGENET_STATISTICS)


def baseline(data: Splits, workers: int) -> list[float]:
    """The clock after each step."""
    model = TASK.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    marks = []
    loader = DataLoader(PerExample(data.train), BATCH, shuffle=True, num_workers=workers)
    for inputs, targets in islice(loader, WARM_UP + STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        marks.append(time.perf_counter())
    return marks


class Clock(Observer):
    """The clock once in each step, always at the same place of it."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def step(self, observation: Observation) -> None:
        self.marks.append(time.perf_counter())


def ours(data: Splits, execution: Execution) -> list[float]:
    """The clock once in each step."""
    clock, recipe = Clock(), TASK.recipe.replace(budget=Steps(WARM_UP + STEPS))
    for _ in train(TASK.model(), data, recipe, seed=0, execution=execution, evaluations=1, observers=[clock]):
        pass
    return clock.marks


def rate(marks: list[float]) -> float:
    """Examples per second after the warm-up."""
    return BATCH * STEPS / (marks[-1] - marks[WARM_UP - 1])


def compare(data: Splits, threads: int, compiled: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    workers = {count: look(baseline, data, count) for count in sorted({0, threads if threads > 1 else 0})}
    chosen = max(workers, key=lambda count: workers[count])
    first = {way: look(ours, data, way) for way in executions(compiled=False)}
    if compiled:
        same = [way for way in executions(compiled=True) if way.precision == fastest(first).precision]
        first |= {way: look(ours, data, way) for way in same}
    best = fastest(first)
    pairs = []
    for repeat in range(REPEATS):
        ways: list[tuple[str, Callable[[], list[float]]]] = [
            ("ours", lambda: ours(data, best)),
            ("baseline", lambda: baseline(data, chosen)),
        ]
        timed = {name: rate(way()) for name, way in (ways if repeat % 2 else reversed(ways))}
        pairs.append((timed["ours"], timed["baseline"]))
    return {
        "threads": threads,
        "execution": best.describe(),
        "loader_workers": chosen,
        "ratio": summary([mine / other for mine, other in pairs]),
        "examples_per_second": summary([mine for mine, _ in pairs]),
        "examples_per_second_baseline": summary([other for _, other in pairs]),
        "first_look": {way.describe(): found for way, found in first.items()}
        | {f"baseline, {count} workers": found for count, found in workers.items()},
    }


def executions(*, compiled: bool) -> list[Execution]:
    ways = product(("float32", "bfloat16"), ("contiguous", "channels_last"))
    return [Execution(precision=p, memory_format=m, compile=compiled) for p, m in ways]  # type: ignore[arg-type]


def look(measure: Callable[..., list[float]], *arguments: object) -> float:
    """The better rate of two: what else runs on the machine only slows."""
    return max(rate(measure(*arguments)) for _ in range(2))


def fastest(rates: dict[Execution, float]) -> Execution:
    return max(rates, key=lambda way: rates[way])


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low_quartile": low, "high_quartile": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--compile", action="store_true", help="try compiled executions too (a minute or two each)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}; {REPEATS} repeats of {STEPS} steps of {BATCH}")
    data = images()
    cases = [compare(data, threads, arguments.compile) for threads in arguments.threads]
    for case in cases:
        mine, other, ratio = (case[name] for name in ("examples_per_second", "examples_per_second_baseline", "ratio"))
        print(
            f"{case['threads']} threads: ours ({case['execution']}) {mine['median']:.0f} examples/s, baseline "
            f"({case['loader_workers']} workers) {other['median']:.0f}, ratio {ratio['median']:.2f}, "
            f"quartiles {ratio['low_quartile']:.2f} and {ratio['high_quartile']:.2f}"
        )
    if arguments.output is not None:
        threads = " ".join(map(str, arguments.threads))
        options = " --compile" * arguments.compile + f" --threads {threads} --output {arguments.output}"
        command = f"python benchmarks/resnet44.py{options}"
        document = {"command": command, "seed": 0, **environment(), "target": TARGET, "aim": AIM, "cases": cases}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
