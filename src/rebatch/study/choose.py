"""Which way of computing is fastest here? A short measurement of whole steps, not a guess from the processor's name."""

import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import nn

from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.recipe import Steps
from rebatch.tasks.task import Task
from rebatch.training import train

# A faster way must win by this much to be worth less precise numbers.
GAIN = 1.15


def fastest(
    task: Task, data_dir: Path | None, *, threads: int, steps: int = 40
) -> tuple[Execution, dict[Execution, float]]:
    """The fastest execution of the task's reference recipe, and all measured rates in examples per second.

    Candidates are float32 and bfloat16, and for networks with convolutions both memory formats. float32 stays unless
    another is at least `GAIN` times as fast. Compilation is not tried: it costs minutes and is left to the user.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = {candidate: _rate(task, data_dir, candidate, steps) for candidate in _candidates(task.model())}
    finally:
        torch.set_num_threads(before)
    plain = Execution()
    best = max(rates, key=lambda candidate: rates[candidate])
    return (best if rates[best] >= GAIN * rates[plain] else plain), rates


def _candidates(model: nn.Module) -> Iterator[Execution]:
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    for precision, layout in product(("float32", "bfloat16"), ("contiguous", "channels_last")):
        if layout == "contiguous" or convolutions:
            yield Execution(precision=precision, memory_format=layout)  # type: ignore[arg-type]


def _rate(task: Task, data_dir: Path | None, execution: Execution, steps: int) -> float:
    recipe, world = task.recipe.replace(budget=Steps(steps)), World.from_environment()
    data = task.data(0, data_dir)
    rows = train(task.model(0, data), data, recipe, seed=0, execution=execution, world=world, evaluations=1)
    seen = [(time.perf_counter(), row["examples"]) for row in rows]
    # The first half warms up (memory, caches, the kernels' own choices); the last row holds the evaluation.
    (start, first), (stop, last) = seen[len(seen) // 2], seen[-2]
    return (last - first) / (stop - start)
