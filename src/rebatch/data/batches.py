"""From examples' indices to what the model sees: any batch of any epoch, rebuilt exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rebatch import draws
from rebatch.batching import START, Place, batch_bounds
from rebatch.data.augment import Augmentation, Normalize
from rebatch.data.sets import DataSet, Splits
from rebatch.recipe import Recipe

# How far to work ahead, in batches such as the one asked for: one is being trained on while the next are decoded.
AHEAD = 2


@runtime_checkable
class Slow(Protocol):
    """An augmentation whose work can begin before it is asked for, as decoding can."""

    @property
    def pending(self) -> int:
        """Examples that were begun and not yet asked for."""
        ...

    def begin(self, images: Tensor, draws: Tensor) -> None:
        """Begin what `apply` will be asked for."""
        ...


class BatchSource:
    """Prepared training batches of `data`, whose augmentation depends on (seed, epoch, example) alone.

    Tables of draws are made per epoch and kept for the two epochs last asked for.

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
        self._upcoming: Iterator[tuple[int, Tensor]] = iter(())
        self._tables: dict[int, list[Tensor]] = {}

    def expect(self, upcoming: Iterable[tuple[int, Tensor]]) -> None:
        """Say which (epoch, indices) will be asked for, in order: slow ones are begun ahead, and no batch changes."""
        self._upcoming = iter(upcoming)

    def batch(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples `indices` as `epoch` shows them."""
        indices = indices.to(self._data.targets.device)
        self._work_ahead(epoch, indices)
        inputs = self._data.inputs.index_select(0, indices)  # 4,096 images: 2 ms; inputs[indices] takes 8
        for augmentation, table in zip(self._augmentations, self._drawn(epoch), strict=True):
            inputs = augmentation.apply(inputs, table.index_select(0, indices))
        return _normalized(inputs, self._normalize), self._data.targets.index_select(0, indices)

    def _work_ahead(self, epoch: int, indices: Tensor) -> None:
        """Begin this batch, if it was not begun, and then those that follow it."""
        slow = next(iter(self._augmentations), None)  # those after the first see its results
        if not isinstance(slow, Slow):
            return
        self._begin(slow, epoch, indices)
        while slow.pending <= AHEAD * len(indices) and (following := next(self._upcoming, None)) is not None:
            self._begin(slow, *following)

    def _begin(self, slow: Slow, epoch: int, indices: Tensor) -> None:
        indices = indices.to(self._data.targets.device)
        slow.begin(self._data.inputs.index_select(0, indices), self._drawn(epoch)[0].index_select(0, indices))

    def _drawn(self, epoch: int) -> list[Tensor]:
        """The tables of `epoch`; those of two epochs are kept, since working ahead crosses the border."""
        if epoch not in self._tables:
            while len(self._tables) >= 2:
                self._tables.pop(max(self._tables, key=lambda other: abs(other - epoch)))
            self._tables[epoch] = [self._table(augmentation, epoch) for augmentation in self._augmentations]
        return self._tables[epoch]

    def _table(self, augmentation: Augmentation, epoch: int) -> Tensor:
        stream = partial(draws.generator, self._seed, augmentation.purpose)
        return torch.from_numpy(augmentation.draw(stream, epoch, len(self._data))).to(self._data.targets.device)


def planned(
    recipe: Recipe,
    examples: int,
    pieces: Callable[[int], Sequence[tuple[int, int]]],
    *,
    seed: int,
    steps: range,
    begun_at: Place = START,
) -> Iterator[tuple[int, Tensor]]:
    """What a run asks for in `steps`, one rank's (epoch, indices) after the other, where `pieces` cuts a step."""
    order: tuple[int, Tensor] | None = None
    for step in steps:
        epoch, start, stop = batch_bounds(step, examples, recipe, begun_at)
        if order is None or order[0] != epoch:
            order = epoch, torch.from_numpy(draws.order(seed, epoch, examples))
        for first, last in pieces(stop - start):
            yield epoch, order[1][start + first : start + last]


def past_batches(
    data: Splits, recipe: Recipe, *, seed: int, augmentation_seed: int | None = None
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """From a step's number to the batch that a run of `recipe` with `seed` sees there, exactly, at any time.

    With another `augmentation_seed` the examples are those, in the same order, but augmented anew.
    """
    drawn_by = seed if augmentation_seed is None else augmentation_seed
    source = BatchSource(data.train, data.augmentations, data.normalize, seed=drawn_by)
    examples = len(data.train)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, start, stop = batch_bounds(step, examples, recipe)
        return source.batch(epoch, torch.from_numpy(draws.order(seed, epoch, examples))[start:stop])

    return batch


def prepare(data: DataSet, which: slice | Tensor, normalize: Normalize | None) -> tuple[Tensor, Tensor]:
    """Inputs and targets for evaluation: normalised, never augmented."""
    return _normalized(data.inputs[which], normalize), data.targets[which]


def _normalized(inputs: Tensor, normalize: Normalize | None) -> Tensor:
    return inputs if normalize is None else normalize(inputs)
