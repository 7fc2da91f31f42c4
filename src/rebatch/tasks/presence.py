"""Are a task's data there? Answered by names and sizes of files, before anything is read or computed; no torch."""

from pathlib import Path

from rebatch.data.catalog import CATALOG
from rebatch.data.folder import data_dir as choose
from rebatch.data.folder import locate
from rebatch.errors import RequestError
from rebatch.tasks.table import TASKS
from rebatch.tasks.task import Task


def require_data(task: Task, data_dir: Path | None) -> None:
    """Look for the files of a built-in task; nobody but a task of the user's own knows what it reads.

    Raises:
        RequestError: something is missing: which file, and how to get it.
    """
    if TASKS.get(task.name) is not task:
        return
    task.sized(data_dir)  # what the user brings is counted, so it is there
    name, folder = task.name.partition("/")[0], choose(data_dir)
    if name in CATALOG:
        locate(CATALOG[name], folder)
    if name == "imagenet":
        for part in ("train", "val"):
            if not (folder / name / part).is_dir():
                raise RequestError(f"no folder {folder / name / part}; it must hold one folder of images per class")
