"""Which stored run does `rebatch train --continue` go on from, and may it?"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.rules.move import Facts
from rebatch.study.plan import Continued, RunSpec, TrainingSet
from rebatch.study.store import RunFolder, Store
from rebatch.training import Checkpointer, EarlierRun
from rebatch.training.continuing import require_budget, require_continuable


def continued(
    spec: RunSpec, path: Path, examples: int, world: World, *, noise_scale: float | None = None
) -> tuple[RunSpec, RunFolder]:
    """`spec` as the run that goes on from the one at `path`, a store or a run's folder; and that one's folder.

    Raises:
        RequestError: there is no such run, or several, or `spec` cannot go on from it.
    """
    Facts(noise_scale=noise_scale)  # refused here if it can be none
    folder = find_run(path, spec)
    earlier = folder.spec()
    if folder.result() is not None:
        raise RequestError(f"the run in {folder.path} is finished: nothing of it is left to go on from")
    if not folder.checkpoint.exists():
        raise RequestError(f"the run in {folder.path} has no checkpoint; it writes one every minute while it trains")
    require_same_run(earlier, spec)
    require_continuable(earlier.recipe, spec.recipe)
    if world.rank == 0:
        _require_stopped(folder)
    steps = Checkpointer(folder.checkpoint).steps()
    found = msgspec.structs.replace(spec, continues=Continued(earlier, steps, noise_scale))
    require_budget(spec.recipe, examples, found.start(examples))
    return found, folder


def find_run(path: Path, spec: RunSpec) -> RunFolder:
    """The run in the folder `path`, or the one in the store `path` that `spec` can mean: begun, and of its task.

    Raises:
        RequestError: there is none, or there are several.
    """
    if (path / "spec.json").exists():
        return RunFolder(path)
    runs = Store(path).runs()
    begun = [folder for folder in runs if folder.checkpoint.exists() and not _is_itself(folder.spec(), spec)]
    if len(begun) == 1 or len(runs) == 1:
        return (begun or runs)[0]
    fits = [folder for folder in begun if (each := folder.spec()).task == spec.task and each.seed == spec.seed]
    if len(fits) == 1:
        return fits[0]
    raise RequestError(
        f"{path} has {_count(fits)}of task {spec.task!r} with seed {spec.seed} to go on from; {_way(fits)}"
    )


def require_same_run(earlier: RunSpec, spec: RunSpec) -> None:
    """But for the recipe, the way steps are cut, and what is computed faster, both are one training.

    Raises:
        RequestError: they are not.
    """
    for name, theirs, ours in (
        ("task", earlier.task, spec.task),
        ("seed", earlier.seed, spec.seed),
        ("precision", earlier.execution.precision, spec.execution.precision),
    ):
        if theirs != ours:
            raise RequestError(f"the earlier run has {name} {theirs}, this one {ours}; go on with --{name} {theirs}")
    if earlier.task_digest != spec.task_digest:
        raise RequestError(f"the file or the data of {spec.task} changed since the earlier run; go on with the same")
    if earlier.probe is not None or earlier.finals or earlier.data != TrainingSet():
        raise RequestError("the earlier run is one of a study, which measures more; only plain runs can go on")


def earlier_run(spec: RunSpec, folder: RunFolder) -> EarlierRun:
    """What `rebatch.train` starts from: the run in `folder`, which `spec` goes on from."""
    assert spec.continues is not None
    return EarlierRun(spec.continues.spec.recipe, folder.checkpoint, spec.continues.noise_scale)


def _is_itself(found: RunSpec, spec: RunSpec) -> bool:
    """Whether it is the run that is asked for, begun before, in the same store as the one that it goes on from."""
    return found.continues is not None and found.recipe == spec.recipe


def _require_stopped(folder: RunFolder) -> None:
    with suppress(OSError), folder.held() as ours:  # where nothing can be written, nobody trains
        if not ours:
            raise RequestError(f"another process still trains the run in {folder.path}; stop it first")


def _count(fits: Sequence[RunFolder]) -> str:
    return "no run " if not fits else f"{len(fits)} runs "


def _way(fits: Sequence[RunFolder]) -> str:
    if not fits:
        return "a run writes its checkpoint every minute, and a finished one has none"
    return f"name one: --continue {fits[0].path}"
