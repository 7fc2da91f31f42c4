"""One run from its spec to its result, in this process."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.measure import WeightDistance
from rebatch.observation import Observer
from rebatch.study.continuing import earlier_run
from rebatch.study.finals import check_finals, finals, watchers
from rebatch.study.plan import RunSpec
from rebatch.study.probing import probe
from rebatch.study.splits import splits_of
from rebatch.study.store import Result, RunFolder, pack
from rebatch.tasks import Task
from rebatch.training import Checkpointer, Row, evaluate, train


def execute(
    spec: RunSpec,
    folder: RunFolder,
    task: Task,
    *,
    data_dir: Path | None,
    environment: Mapping[str, Any],
    on_row: Callable[[Row], None],
    world: World | None = None,
    micro_batch_size: int | None = None,
    allow_batch_norm: bool = False,
    earlier: RunFolder | None = None,
) -> Result:
    """Train as `spec` says, resuming where a killed process stopped; rows and the result go into `folder`.

    A run that continues another starts from the state and with the rows of `earlier`.

    The test set is read once, after the last step. A diverged run counts at chance level. Of several ranks, all
    compute and rank 0 writes.
    """
    world = world or World()
    started = time.monotonic()
    about = {**environment, "device": str(world.device), "ranks": world.size, "threads": torch.get_num_threads()}
    check_finals(spec.finals)
    if spec.probe is not None:
        return _probed(spec, folder, task, data_dir, about, started)
    data = splits_of(spec, task, data_dir)
    model = task.model(spec.seed, data)
    watched = watchers(spec, data)
    checkpoint = Checkpointer(folder.checkpoint)
    start_from = None if earlier is None else earlier_run(spec, earlier)
    if world.rank == 0:
        _keep_rows(spec, folder, checkpoint.steps(), earlier)
    kept = folder.rows()
    row: Row = kept[-1] if kept else {}  # stays the last one if the run was killed after its last step
    for row in train(
        model,
        data,
        spec.recipe,
        seed=spec.seed,
        execution=spec.execution,
        world=world,
        micro_batch_size=micro_batch_size,
        allow_batch_norm=allow_batch_norm,
        observers=[WeightDistance(), *watched.values()],
        evaluations=spec.evaluations,
        checkpoint=checkpoint,
        start_from=start_from,
    ):
        if world.rank == 0:
            folder.append(row)
        on_row(row)
    result = _result(row, model, data, spec, task, world, watched)
    result = msgspec.structs.replace(result, seconds=time.monotonic() - started, environment=about)
    if world.rank == 0:
        folder.finish(result)
    return result


def _keep_rows(spec: RunSpec, folder: RunFolder, steps: int, earlier: RunFolder | None) -> None:
    """Rows up to where the run resumes from, or those of the run that it continues."""
    if steps == 0 and earlier is not None and spec.continues is not None:
        folder.begin_with(row for row in earlier.rows() if row["step"] <= spec.continues.steps)
    else:
        folder.keep_rows(steps)


def _probed(
    spec: RunSpec, folder: RunFolder, task: Task, data_dir: Path | None, about: Mapping[str, Any], started: float
) -> Result:
    """A probe is short and leaves all it found at once."""
    rows, metrics = probe(spec, task, data_dir)
    folder.keep_rows(0)
    for row in rows:
        folder.append(row)
    seconds = time.monotonic() - started
    result = Result(status="done", steps=0, metrics=_finite(metrics), seconds=seconds, environment=about)
    folder.finish(result)
    return result


def _result(
    last: Row,
    model: nn.Module,
    data: Splits,
    spec: RunSpec,
    task: Task,
    world: World,
    watched: Mapping[str, Observer],
) -> Result:
    if "diverged" in last:
        return Result(status="diverged", steps=int(last["step"]), accuracy=task.chance, metrics=_finite(last))
    test = evaluate(
        model, data.test.to(world.device), data.normalize, views=data.views, execution=spec.execution, world=world
    )
    return Result(
        status="done",
        steps=int(last["step"]),
        accuracy=test.accuracy,
        test_loss=test.loss,
        metrics=_finite({**last, **finals(spec, model, data, world, watched)}),
        correct=pack(test.correct.numpy()),
        test_examples=len(test.correct),
        tokens_per_example=test.correct[0].numel(),
    )


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what is not finite is None."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
