"""The data that a run of a study sees."""

from dataclasses import replace
from pathlib import Path

from rebatch.data.sets import Splits, nested_order
from rebatch.study.plan import RunSpec
from rebatch.tasks.task import Task


def splits_of(spec: RunSpec, task: Task, data_dir: Path | None) -> Splits:
    """The task's splits, the training set cut down and left unaugmented as `spec.data` says."""
    data, wanted = task.data(spec.seed, data_dir), spec.data
    if wanted.examples is not None:
        chosen = nested_order(data.train.targets)[: wanted.examples].sort().values  # in the order of the data
        data = replace(data, train=data.train.subset(chosen))
    return data if wanted.augmented else replace(data, augmentations=())
