"""Examples per second of `rebatch.train` beside a plain PyTorch script, in one run: what several benchmarks share.

The baseline is what most people write: a torch DataLoader with augmentation example by example (in worker processes
where there are several threads, if that is faster), eager float32, fused SGD. Ours is `rebatch.train` in the best
execution: float32 or bfloat16, contiguous or channels_last; if asked, those of the faster precision compiled too. A
first look at all of them chooses; then the two chosen take turns, and a ratio is that of neighbours in time. Neither
evaluates. A rate leaves out the first steps, and so the compiling: a minute or two, once. Images are random numbers of
CIFAR's shape: the time of a step does not depend on what they show.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rebatch import Execution, Steps, train
from rebatch.data.augment import Augmentation, Normalize
from rebatch.data.sets import DataSet, Splits
from rebatch.observation import Observation, Observer
from rebatch.tasks import Task

EXAMPLES = 45_000


def random_images(augmentations: tuple[Augmentation, ...], normalize: Normalize) -> Splits:
    """As many images as CIFAR-10's tasks train on."""
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (EXAMPLES, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    data = DataSet(inputs, torch.randint(0, 10, (EXAMPLES,), generator=numbers))
    few = data.subset(range(2))
    return Splits(data, few, few, augmentations, normalize)


class PerExample(Dataset[tuple[Tensor, int]]):
    """One image at a time through `augment`, then normalized, as a `transform` does."""

    def __init__(self, data: DataSet, augment: Callable[[Tensor], Tensor], normalize: Normalize) -> None:
        self.data, self.augment = data, augment
        self.mean = torch.tensor(normalize.mean).view(3, 1, 1)
        self.std = torch.tensor(normalize.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.augment(self.data.inputs[index])
        return (image.float().div_(255) - self.mean) / self.std, int(self.data.targets[index])


@dataclass(frozen=True)
class Race:
    """Our loop on `task` against a plain script.

    Attributes:
        augment: what the plain script does to one image before it is normalized.
        plain: from the fresh model to the plain script's step, a function of inputs and targets.
        warm_up: steps that a rate leaves out, of `warm_up + steps`.
        repeats: how often the two take turns.
    """

    task: Task
    data: Splits
    augment: Callable[[Tensor], Tensor]
    plain: Callable[[nn.Module], Callable[[Tensor, Tensor], None]]
    warm_up: int
    steps: int
    repeats: int

    def baseline(self, workers: int) -> list[float]:
        """The clock after each step of the plain script."""
        step = self.plain(self._model().train())
        assert self.data.normalize is not None
        images = PerExample(self.data.train, self.augment, self.data.normalize)
        marks = []
        loader = DataLoader(images, self.task.recipe.batch_size, shuffle=True, num_workers=workers)
        for inputs, targets in islice(loader, self.warm_up + self.steps):
            step(inputs, targets)
            marks.append(time.perf_counter())
        return marks

    def ours(self, execution: Execution) -> list[float]:
        """The clock once in each step of ours."""
        clock, recipe = Clock(), self.task.recipe.replace(budget=Steps(self.warm_up + self.steps))
        watching = {"execution": execution, "evaluations": 1, "observers": [clock]}
        for _ in train(self._model(), self.data, recipe, seed=0, **watching):  # type: ignore[arg-type]
            pass
        return clock.marks

    def _model(self) -> nn.Module:
        return self.task.model(0, self.data)

    def rate(self, marks: list[float]) -> float:
        """Examples per second after the warm-up."""
        return self.task.recipe.batch_size * self.steps / (marks[-1] - marks[self.warm_up - 1])

    def look(self, measure: Callable[..., list[float]], way: object) -> float:
        """The better rate of two: what else runs on the machine only slows."""
        return max(self.rate(measure(way)) for _ in range(2))

    def compare(self, threads: int, *, compiled: bool) -> tuple[Execution, dict[str, Any]]:
        """The two at a number of threads, each in the best of its ways; that way of ours, and the numbers."""
        torch.set_num_threads(threads)
        workers = {count: self.look(self.baseline, count) for count in sorted({0, threads if threads > 1 else 0})}
        chosen = max(workers, key=lambda count: workers[count])
        first = {way: self.look(self.ours, way) for way in executions(compiled=False)}
        if compiled:
            same = [way for way in executions(compiled=True) if way.precision == fastest(first).precision]
            first |= {way: self.look(self.ours, way) for way in same}
        best = fastest(first)
        pairs = []
        for repeat in range(self.repeats):
            ways: list[tuple[str, Callable[[], list[float]]]] = [
                ("ours", lambda: self.ours(best)),
                ("baseline", lambda: self.baseline(chosen)),
            ]
            timed = {name: self.rate(way()) for name, way in (ways if repeat % 2 else reversed(ways))}
            pairs.append((timed["ours"], timed["baseline"]))
        return best, {
            "threads": threads,
            "execution": best.describe(),
            "loader_workers": chosen,
            "ratio": summary([mine / other for mine, other in pairs]),
            "examples_per_second": summary([mine for mine, _ in pairs]),
            "examples_per_second_baseline": summary([other for _, other in pairs]),
            "first_look": {way.describe(): found for way, found in first.items()}
            | {f"baseline, {count} workers": found for count, found in workers.items()},
        }


class Clock(Observer):
    """The clock once in each step, always at the same place of it."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def step(self, observation: Observation) -> None:
        self.marks.append(time.perf_counter())


def executions(*, compiled: bool) -> list[Execution]:
    ways = product(("float32", "bfloat16"), ("contiguous", "channels_last"))
    return [Execution(precision=p, memory_format=m, compile=compiled) for p, m in ways]  # type: ignore[arg-type]


def fastest(rates: dict[Execution, float]) -> Execution:
    return max(rates, key=lambda way: rates[way])


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low_quartile": low, "high_quartile": high}


def tell(case: dict[str, Any]) -> None:
    """Print a comparison in one line."""
    mine, other, ratio = (case[name] for name in ("examples_per_second", "examples_per_second_baseline", "ratio"))
    print(
        f"{case['threads']} threads: ours ({case['execution']}) {mine['median']:.0f} examples/s, baseline "
        f"({case['loader_workers']} workers) {other['median']:.0f}, ratio {ratio['median']:.2f}, "
        f"quartiles {ratio['low_quartile']:.2f} and {ratio['high_quartile']:.2f}",
        flush=True,
    )
