"""Sets of examples that lie whole in memory, on one device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebatch import draws
from rebatch.data.augment import Augmentation, Normalize
from rebatch.data.views import Views
from rebatch.errors import RequestError

Indices = Tensor | NDArray[np.integer] | Sequence[int]
"""Which examples of a set, as integers."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Examples as published: `inputs` (N, ...), uint8 or float, and `targets` (N,) int64, or (N, T) of sequences."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            counts = f"{len(self.inputs)} inputs and {len(self.targets)} targets"
            raise ValueError(f"inputs and targets must be equally many, got {counts}")
        if self.has_sequences and (self.targets < 0).any():
            # Sequences would weigh alike in a step, and tokens in short ones more than others.
            raise ValueError("targets of sequences must all count, got some below 0 (ignored); cut whole windows")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def has_sequences(self) -> bool:
        """Whether examples are sequences of tokens, each with a target."""
        return self.targets.dim() > 1 and not self.targets.is_floating_point()

    def to(self, device: torch.device | str) -> "DataSet":
        """The same examples on `device`."""
        return DataSet(self.inputs.to(device), self.targets.to(device))

    def subset(self, indices: Indices) -> "DataSet":
        """A copy of the examples at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.targets.device)
        return DataSet(self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen))


@dataclass(frozen=True, eq=False)
class Splits:
    """What a task trains on, chooses on and is judged on, and how its inputs are prepared.

    Augmentations change training inputs only, in this order, on the inputs as published; `normalize` comes last and for
    all three splits. Without it inputs go to the model as they are. Examples are evaluated at `views`, of the
    validation and of the test set.
    """

    train: DataSet
    validation: DataSet
    test: DataSet
    augmentations: tuple[Augmentation, ...] = ()
    normalize: Normalize | None = None
    views: Views = "one"

    def to(self, device: torch.device | str) -> "Splits":
        """The same splits on `device`."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def nested_order(targets: Tensor) -> Tensor:
    """An order of examples, shape (N,), whose first n are a subset with classes as even as n and the data allow.

    Subsets of different sizes are nested, and the same for every run: which examples a smaller set has is no part of
    the question how its size matters. Sequences, which have no class, come in any order.
    """
    labels = targets.cpu().numpy()
    shuffled = draws.generator(0, "nested_order").permutation(len(labels))
    if labels.ndim > 1:
        return torch.from_numpy(shuffled)
    ranks = np.empty(len(labels), dtype=np.int64)  # how many of its class come before an example
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        ranks[members] = np.arange(len(members))
    return torch.from_numpy(shuffled[np.argsort(ranks[shuffled], kind="stable")])


def hold_out(data: DataSet, validation: int, seed: int) -> tuple[DataSet, DataSet]:
    """Split `data` into (train, validation) with `validation` examples drawn by `seed`; both keep the order of `data`.

    Raises:
        RequestError: nothing would be left on one side.
    """
    if not 0 < validation < len(data):
        raise RequestError(f"validation must be from 1 to {len(data) - 1} of {len(data)} examples, got {validation}")
    order = draws.generator(seed, "hold_out").permutation(len(data))
    return data.subset(np.sort(order[validation:])), data.subset(np.sort(order[:validation]))
