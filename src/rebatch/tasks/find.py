"""From what the user wrote to the thing: a built-in name, a unique prefix, or `path/to/file.py:name`."""

import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TypeVar

from rebatch.errors import RequestError, did_you_mean
from rebatch.tasks.table import SIMULATION, TASKS
from rebatch.tasks.task import Task

Thing = TypeVar("Thing")

# Where code lies that the user did not write: Python, its packages, rebatch.
_NOT_THE_USERS = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
    "<",  # <frozen importlib._bootstrap>
)


def find_task(reference: str) -> Task:
    """The task called `reference`: `digits/mlp`, `digits` (unique by its data set), or `path/to/file.py:name`.

    A variant, called like another task with something after a hyphen (`digits/mlp-plain`), must be named in full.
    """
    if is_file_reference(reference):
        return load_from_file(reference, Task)
    if reference in TASKS:
        return TASKS[reference]
    if reference in {SIMULATION.name, "simulation"}:
        return SIMULATION
    matches = [name for name in TASKS if name.split("/")[0] == reference and not _is_variant(name)]
    if len(matches) == 1:
        return TASKS[matches[0]]
    if matches:
        raise RequestError(f"--task {reference!r} could be {' or '.join(matches)}; name one of them")
    raise RequestError(f"no task named {reference!r}{did_you_mean(reference, TASKS)} (your own: path/to/file.py:name)")


def _is_variant(name: str) -> bool:
    return any(name.startswith(f"{other}-") for other in TASKS)


def is_file_reference(reference: str) -> bool:
    """Whether `reference` has the form `path/to/file.py:name`."""
    return reference.rpartition(":")[0].endswith(".py")


def load_from_file(reference: str, kind: type[Thing]) -> Thing:
    """The object `name` of `path/to/file.py:name`, which must be a `kind`; what the file prints goes to stderr.

    Raises:
        RequestError: no such file or name, an error while the file runs, or an object of another kind.
    """
    path, _, name = reference.rpartition(":")
    namespace = _run_file(Path(path), reference)
    if name not in namespace:
        raise RequestError(f"{path} has no {name!r}{did_you_mean(name, _names_of(namespace, kind))}")
    thing = namespace[name]
    if not isinstance(thing, kind):
        raise RequestError(f"{reference} must be a rebatch {kind.__name__}, it is a {type(thing).__name__}")
    return thing


def file_digest(reference: str) -> str:
    """What identifies the user's file in a run: the first 16 hex digits of its SHA-256; empty for a built-in name."""
    if not is_file_reference(reference):
        return ""
    return hashlib.sha256(Path(reference.rpartition(":")[0]).read_bytes()).hexdigest()[:16]


def run_digest(reference: str, task: Task) -> str:
    """What identifies in a run what the user brought: the task's file, and the data that `sized` has looked at."""
    of_file, of_data = file_digest(reference), task.digest
    if not of_file or not of_data:
        return of_file or of_data
    return hashlib.sha256(f"{of_file}{of_data}".encode()).hexdigest()[:16]


def describe(error: BaseException) -> str:
    """`ZeroDivisionError: my bug (mine.py:7)`: an error in one line, with the last line of the user's code in it."""
    message = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    place = users_line(error)
    return f"{message} ({place})" if place else message


def users_line(error: BaseException) -> str | None:
    """`path/to/file.py:7`, the last line of the user's own code that `error` passed; `None` where it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    return places[-1] if places else None


def _run_file(path: Path, reference: str) -> dict[str, object]:
    if not path.is_file():
        raise RequestError(f"no file {path}, asked for by {reference}")
    spec = importlib.util.spec_from_file_location(f"rebatch_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except RequestError as error:  # says all but where
        raise RequestError(f"{error} ({users_line(error) or path})") from error
    except (Exception, SystemExit) as error:
        raise RequestError(f"{path} cannot be run: {describe(error)}") from error
    return vars(module)


def _names_of(namespace: Mapping[str, object], kind: type) -> list[str]:
    return [name for name, value in namespace.items() if isinstance(value, kind)] or [f"no {kind.__name__}"]
