"""A task of your own: `rebatch study run hoffer-gap --task examples/my_task.py:tumors`.

A task is a model, data in three splits and the recipe tuned for them. Here: 569 tumors described by 30 numbers.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from rebatch import Cosine, Epochs, Recipe, Sgd, draws
from rebatch.data.sets import DataSet, Splits
from rebatch.tasks import Task


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))


def load(_: Path, seed: int) -> Splits:
    """384 to train on, 64 to choose on, 121 to be judged on, drawn by the seed; scaled by the training part."""
    numbers, labels = load_breast_cancer(return_X_y=True)
    order = draws.generator(seed, "split").permutation(len(labels))
    inputs = torch.tensor(numbers[order], dtype=torch.float32)
    targets = torch.tensor(labels[order], dtype=torch.int64)
    inputs = (inputs - inputs[:384].mean(0)) / inputs[:384].std(0)
    data = DataSet(inputs, targets)
    return Splits(data.subset(range(384)), data.subset(range(384, 448)), data.subset(range(448, 569)))


tumors = Task(
    name="tumors/mlp",
    recipe=Recipe(batch_size=16, optimizer=Sgd(lr=0.05, momentum=0.9), schedule=Cosine(), budget=Epochs(10)),
    train=384,
    validation=64,
    test=121,
    classes=2,
    build=build,
    load=load,
    seed_draws_split=True,
)
