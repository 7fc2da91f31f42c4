"""Noise that a recipe adds to a step: factors on examples' losses and replaced labels, from tables of draws."""

import numpy as np
import torch
from torch import Tensor

from rebatch import draws
from rebatch.cutting import chunk_sizes
from rebatch.errors import RequestError
from rebatch.recipe import Recipe

_KEPT = -1  # in the table of drawn labels: this example keeps its own


class StepNoise:
    """What a recipe does to the examples of a step, drawn per (seed, epoch, example): no cut of the step changes it.

    Args:
        examples: size of the training set.
        classes: labels are 0 .. classes - 1; 0 where targets are not labels.

    Raises:
        RequestError: labels are to be replaced and there are none.
    """

    def __init__(self, recipe: Recipe, *, seed: int, examples: int, classes: int, device: torch.device) -> None:
        if recipe.noise.labels > 0 and classes < 1:
            raise _no_labels("not whole numbers")
        self._recipe, self._seed, self._device = recipe, seed, device
        self._examples, self._classes = examples, classes
        self._epoch: int | None = None
        self._factors = self._labels = torch.empty(0)

    @property
    def weighs_by(self) -> str | None:
        """The field of the recipe that makes examples weigh differently, or None where it has none."""
        if self._recipe.noise.multiplicative > 0:
            return "noise.multiplicative"
        return None if chunks(self._recipe) is None else 'defects.ghost_split = "chunks"'

    def weights(self, epoch: int, indices: Tensor) -> Tensor | None:
        """Factors on the losses of the examples `indices`, shape (B,), or None where all are 1.

        z ~ N(1, sigma^2) for multiplicative noise (Hoffer et al., 2017); where ghosts are cut by their number every
        ghost weighs the same, so an example of a small ghost weighs more.
        """
        weights = None
        if self._recipe.noise.multiplicative > 0:
            self._draw(epoch)
            weights = self._factors.index_select(0, indices)
        if chunks(self._recipe) is not None:
            shares = _equal_ghosts(self._recipe, len(indices)).to(self._device)
            weights = shares if weights is None else weights * shares
        return weights

    def labels(self, epoch: int, indices: Tensor, targets: Tensor) -> Tensor:
        """`targets` (B,) with some replaced by labels drawn evenly from all classes."""
        if self._recipe.noise.labels == 0:
            return targets
        if targets.dim() != 1:
            raise _no_labels(f"of shape {list(targets.shape)}")
        self._draw(epoch)
        drawn = self._labels.index_select(0, indices)
        return torch.where(drawn == _KEPT, targets, drawn.to(targets.dtype))

    def _draw(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        noise = self._recipe.noise
        if noise.multiplicative > 0:
            normal = draws.generator(self._seed, "multiplicative_noise", epoch).standard_normal(self._examples)
            self._factors = torch.from_numpy(1.0 + noise.multiplicative * normal).to(self._device)
        if noise.labels > 0:
            rng = draws.generator(self._seed, "label_noise", epoch)
            replaced = rng.random(self._examples) < noise.labels
            labels = np.where(replaced, rng.integers(0, self._classes, self._examples), _KEPT)
            self._labels = torch.from_numpy(labels).to(self._device)
        self._epoch = epoch


def chunks(recipe: Recipe) -> int | None:
    """The number of ghosts of every batch where the recipe cuts by number, else None; rounded down, as the authors'."""
    if recipe.defects.ghost_split == "size" or recipe.ghost_batch_size is None:
        return None
    return recipe.batch_size // recipe.ghost_batch_size


def _no_labels(found: str) -> RequestError:
    return RequestError(f"noise.labels needs one label (a whole number) per example, got targets {found}; leave it out")


def _equal_ghosts(recipe: Recipe, examples: int) -> Tensor:
    number = chunks(recipe)
    assert number is not None
    sizes = torch.tensor(chunk_sizes(examples, number))
    return (examples / (len(sizes) * sizes.double())).repeat_interleave(sizes)
