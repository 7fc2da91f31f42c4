"""How many examples a second does training see at each of several batch sizes? Measured side by side in one process."""

import time
from pathlib import Path
from statistics import median

from rebatch.distributed import World
from rebatch.recipe import Steps
from rebatch.study.plan import RunSpec
from rebatch.study.probes import Throughput
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task
from rebatch.training import train

Measured = tuple[list[dict[str, float]], dict[str, float]]


def throughput(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """Medians of interleaved repeats, the first half of each left out to warm up; `gpu` is 1 where it ran on one."""
    wanted = spec.probe
    assert isinstance(wanted, Throughput)
    data, world = splits_of(spec, task, data_dir), World.from_environment()
    rates: dict[int, list[float]] = {size: [] for size in wanted.batch_sizes}
    for _ in range(wanted.repeats):
        for size in wanted.batch_sizes:
            steps = max(8, round(wanted.examples / size))
            recipe = spec.recipe.replace(batch_size=size, ghost_batch_size=None, budget=Steps(steps))
            model, stamps = task.model(spec.seed, data), []
            rows = train(model, data, recipe, seed=spec.seed, execution=spec.execution, world=world, evaluations=1)
            for row in rows:
                stamps.append((time.perf_counter(), row["examples"]))
                if row["step"] >= 0.8 * steps:  # before the last row, which holds an evaluation
                    break
            (start, first), (stop, last) = next(each for each in stamps if each[1] >= 0.4 * steps * size), stamps[-1]
            rates[size].append((last - first) / (stop - start))
    found = {f"examples_per_second:{size}": median(many) for size, many in rates.items()}
    small, large = min(rates), max(rates)
    ratio = median(a / b for a, b in zip(rates[large], rates[small], strict=True))
    return [], {**found, "ratio": ratio, "gpu": float(world.device.type == "cuda")}
