"""A user's task whose model takes a megabyte for each example of a micro-batch, and one whose model fails."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from rebatch.data.sets import DataSet, Splits
from rebatch.tasks import TASKS
from rebatch.tasks.task import Task


class Hungry(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        inputs.new_ones(len(inputs), 250_000)
        return super().forward(inputs)


class Failing(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        print("a model that prints")
        raise ZeroDivisionError("my bug")


def load(folder: Path, seed: int) -> Splits:
    data = DataSet(torch.ones(1013, 3), torch.arange(1013) % 2)
    return Splits(data.subset(range(1009)), data.subset(range(1009, 1011)), data.subset(range(1011, 1013)))


hungry = Task("mine/hungry", TASKS["digits/mlp"].recipe, 1009, 2, 2, 2, build=lambda: Hungry(3, 2), load=load)
failing = dataclasses.replace(hungry, name="mine/failing", build=lambda: Failing(3, 2))
