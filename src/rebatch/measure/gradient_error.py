"""How far is the gradient of a batch from that of all examples, and does it point the same way?

At fixed weights, with g_n the gradients of N examples, G their mean and tr S = sum |g_n - G|^2 / (N - 1), a batch of B
drawn without replacement misses G by

    E |g_B - G|^2 = tr S (1/B - 1/N) = tr S (N - 1)/N (1/B) (N - B)/(N - 1),

so the root mean square error falls as B^(-1/2) once the factor sqrt((N - B)/(N - 1)) is taken out. That is arithmetic,
for any gradients that do not couple examples. What counts is the error beside G: with the noise scale
B_n = tr S / |G|^2 (McCandlish et al., 2018, arXiv 1812.06162) the cosines are about

    cos(g_B, G) = 1/sqrt(1 + B_n/B)        cos(g_B, g_B') = 1/(1 + B_n/B), of disjoint batches,

exactly so for the root of E (g_B . G)^2 / (E |g_B|^2 |G|^2) and its like. Two things are left out. A mean of cosines is
not the cosine of means: where a few examples hold most of the gradient, most batches miss them. And of N examples
disjoint batches are drawn against each other, by tr S / N in g_B . g_B', at most B/N in the cosine.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rebatch.measure.increments import Gradient

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """What a batch is compared with: G, shape (D,), and tr S over the gradients of so many examples."""

    full: Tensor
    trace: float
    examples: int

    @property
    def noise_scale(self) -> float:
        """tr S / |G|^2."""
        return self.trace / float(self.full.double().square().sum())


@dataclass(frozen=True)
class Cosines:
    """Of pairs of disjoint batches: of each batch with the full gradient (pairs, 2), and of the two (pairs,)."""

    to_full: Array
    between: Array


def population(per_example: Iterable[Tensor]) -> Population:
    """G and tr S from all examples' gradients, given in chunks of shape (n, D); accumulated in float64.

    Raises:
        ValueError: fewer than two examples.
    """
    total, squares, examples = torch.zeros((), dtype=torch.float64), 0.0, 0
    for chunk in per_example:
        total = total + chunk.sum(0, dtype=torch.float64)
        squares += float(chunk.square().sum(dtype=torch.float64))
        examples += len(chunk)
    if examples < 2:
        raise ValueError(f"a variance needs the gradients of 2 examples or more, got {examples}")
    full = total / examples
    return Population(full, (squares - examples * float(full.square().sum())) / (examples - 1), examples)


def expected_square_error(found: Population, batch_size: int) -> float:
    """E |g_B - G|^2 = tr S (1/B - 1/N)."""
    return found.trace * (1.0 / batch_size - 1.0 / found.examples)


def expected_cosine(noise_scale: float, batch_size: float) -> float:
    """Of a batch's gradient with the full one, 1/sqrt(1 + B_n/B).

    >>> round(expected_cosine(300.0, 100.0), 6)
    0.5
    """
    return 1.0 / math.sqrt(1.0 + noise_scale / batch_size)


def expected_agreement(noise_scale: float, batch_size: float) -> float:
    """The cosine of two disjoint batches' gradients, 1/(1 + B_n/B).

    >>> expected_agreement(300.0, 100.0)
    0.25
    """
    return 1.0 / (1.0 + noise_scale / batch_size)


def square_errors(gradients: Tensor, full: Tensor) -> Array:
    """|g - G|^2 of batch gradients (R, D), shape (R,), in float64."""
    return _numbers((gradients.double() - full.double()).square().sum(1))


def cosines(first: Tensor, second: Tensor) -> Array:
    """Row by row of (R, D), or of each row with one vector (D,); shape (R,), in float64."""
    a, b = first.double(), second.double()
    return _numbers((a * b).sum(-1) / (torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)))


def error_exponent(batch_sizes: ArrayLike, mean_squares: ArrayLike, examples: int | None) -> float:
    """The power of B with which the root of the mean square error falls, by least squares on both logarithms.

    Without replacement from so many `examples` the factor (N - B)/(N - 1) is taken out first; None leaves it in. nan
    where there is no line: fewer than two sizes, or an error of zero.

    >>> round(error_exponent([1, 2, 4], [8.0, 4.0, 2.0], None), 6)
    -0.5
    """
    sizes, squares = (np.asarray(each, dtype=np.float64) for each in (batch_sizes, mean_squares))
    if examples is not None:
        squares = squares * (examples - 1) / (examples - sizes)
    if len(np.unique(sizes)) < 2 or not (np.isfinite(squares).all() and (squares > 0.0).all()):
        return math.nan  # LAPACK would complain on standard output
    return 0.5 * float(np.polyfit(np.log(sizes), np.log(squares), 1)[0])


def sample_square_errors(
    gradient: Gradient, found: Population, batch_size: int, *, draws: int, rng: np.random.Generator
) -> Array:
    """|g_B - G|^2 of `draws` batches without replacement, shape (draws,); one gradient is kept at a time.

    Batches come as in training, epoch after epoch. Each by itself is drawn from all examples, so the mean is unbiased;
    that an epoch has every example once makes it steadier where a few of them hold most of the error.

    Raises:
        ValueError: a batch that is larger than the set.
    """
    _require(batch_size, found.examples)
    batches = islice(_epochs(found.examples, batch_size, rng), draws)
    return np.concatenate([square_errors(_gradient(gradient, batch)[None], found.full) for batch in batches])


def sample_cosines(
    gradient: Gradient, found: Population, batch_size: int, *, draws: int, rng: np.random.Generator
) -> Cosines:
    """The cosines of `draws` pairs of disjoint batches.

    Raises:
        ValueError: two batches are more than there are examples.
    """
    _require(2 * batch_size, found.examples)
    to_full, between = np.empty((draws, 2)), np.empty(draws)
    for draw in range(draws):
        chosen = torch.from_numpy(rng.choice(found.examples, 2 * batch_size, replace=False))
        pair = torch.stack([_gradient(gradient, half) for half in torch.split(chosen, batch_size)])
        to_full[draw], between[draw] = cosines(pair, found.full), cosines(pair[0], pair[1])
    return Cosines(to_full, between)


def _gradient(gradient: Gradient, indices: Tensor) -> Tensor:
    return gradient(indices, torch.ones(len(indices), dtype=torch.float64)).detach()


def _epochs(examples: int, batch_size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """The full batches of one shuffled epoch after the other, without end."""
    while True:
        order = torch.from_numpy(rng.permutation(examples))
        yield from torch.split(order[: examples - examples % batch_size], batch_size)


def _require(wanted: int, examples: int) -> None:
    if wanted > examples:
        raise ValueError(f"at most the {examples} examples can be drawn without replacement, got {wanted}")


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)
