"""The data that a run of a study sees."""

from dataclasses import replace
from pathlib import Path

from rebatch.data.sets import Splits, nested_order
from rebatch.errors import RequestError, did_you_mean
from rebatch.study.plan import RunSpec
from rebatch.tasks.task import Task


def splits_of(spec: RunSpec, task: Task, data_dir: Path | None) -> Splits:
    """The task's splits, the training set cut down and augmented less as `spec.data` says.

    Raises:
        RequestError: it names an augmentation that the task does not have.
    """
    data, wanted = task.data(spec.seed, data_dir), spec.data
    if wanted.examples is not None:
        chosen = nested_order(data.train.targets)[: wanted.examples].sort().values  # in the order of the data
        data = replace(data, train=data.train.subset(chosen))
    purposes = [each.purpose for each in data.augmentations]
    for name in wanted.without:
        if name not in purposes:
            known = did_you_mean(name, purposes) if purposes else "; it has none"
            raise RequestError(f"task {task.name} has no augmentation {name!r} to leave out{known}")
    kept = tuple(each for each in data.augmentations if wanted.augmented and each.purpose not in wanted.without)
    return replace(data, augmentations=kept)
