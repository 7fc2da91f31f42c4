"""From examples' indices to what the model sees: any batch of any epoch, rebuilt exactly."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rebatch import draws
from rebatch.data.augment import Augmentation, Normalize
from rebatch.data.sets import DataSet


class BatchSource:
    """Prepared training batches of `data`, whose augmentation depends on (seed, epoch, example) alone.

    Tables of draws are made per epoch and kept for the epoch last asked for.

    Args:
        data: the training set; batches are made on its device.
        augmentations: applied in this order to the inputs as published.
        normalize: applied last; without it inputs keep their dtype.
        seed: the run's seed.

    Raises:
        ValueError: two augmentations would use the same draws.
    """

    def __init__(
        self,
        data: DataSet,
        augmentations: Sequence[Augmentation] = (),
        normalize: Normalize | None = None,
        *,
        seed: int,
    ) -> None:
        purposes = [augmentation.purpose for augmentation in augmentations]
        if len(set(purposes)) < len(purposes):
            raise ValueError(f"augmentations must have purposes of their own, got {', '.join(purposes)}")
        self._data, self._augmentations, self._normalize = data, tuple(augmentations), normalize
        self._seed = seed
        self._epoch: int | None = None
        self._tables: list[Tensor] = []

    def batch(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples `indices` as `epoch` shows them."""
        self._draw(epoch)
        indices = indices.to(self._data.targets.device)
        inputs = self._data.inputs.index_select(0, indices)  # 4,096 images: 2 ms; inputs[indices] takes 8
        for augmentation, table in zip(self._augmentations, self._tables, strict=True):
            inputs = augmentation.apply(inputs, table.index_select(0, indices))
        return _normalized(inputs, self._normalize), self._data.targets.index_select(0, indices)

    def _draw(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._tables = [self._table(augmentation, epoch) for augmentation in self._augmentations]
        self._epoch = epoch

    def _table(self, augmentation: Augmentation, epoch: int) -> Tensor:
        table = augmentation.draw(draws.generator(self._seed, augmentation.purpose, epoch), len(self._data))
        return torch.from_numpy(table).to(self._data.targets.device)


def prepare(data: DataSet, which: slice | Tensor, normalize: Normalize | None) -> tuple[Tensor, Tensor]:
    """Inputs and targets for evaluation: normalised, never augmented."""
    return _normalized(data.inputs[which], normalize), data.targets[which]


def _normalized(inputs: Tensor, normalize: Normalize | None) -> Tensor:
    return inputs if normalize is None else normalize(inputs)
