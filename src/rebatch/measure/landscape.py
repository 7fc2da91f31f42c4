"""How does the loss spread with the distance from a point, and is that more than its being smooth?

Hoffer et al. (2017, Appendix B) draw random unit directions v and distances z, and bin L(w_0 + z v) - L(w_0) by z: a
root mean square that grows as z^(alpha/2) is read as the exponent alpha of a random field, a line as alpha = 2. But any
smooth loss gives a line, by Taylor, with a slope known beforehand: `taylor_line`. So the measured spread is held
against that line (`taylor_ratio`), and its exponent is taken over several ranges of z.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from rebatch.interval import Interval
from rebatch.observation import trainable
from rebatch.statistics import Contrast, fieller, paired_contrast

Array = NDArray[np.float64]

Loss = Callable[[], Tensor]
"""The loss at the model's present weights, a scalar: of all examples, of one batch, or of a fresh batch each call."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """Losses around a point w_0: one random direction, distance and difference per draw.

    Attributes:
        distances: z = |w - w_0|, shape (draws,).
        differences: L(w_0 + z v) - L(w_0), shape (draws,).
        base: the L(w_0) that each difference is taken from, shape (draws,); they differ only for a noisy loss.
        dimensions: D, the number of trainable weights.
        gradient_norm: |grad L(w_0)| of the smooth loss.
    """

    distances: Array
    differences: Array
    base: Array
    dimensions: int
    gradient_norm: float

    @property
    def noise(self) -> float:
        """The spread at z = 0: what two losses at one point differ by; 0 unless the loss was noisy."""
        return math.sqrt(2.0 * float(self.base.var(ddof=1))) if len(self.base) > 1 else 0.0

    def between(self, low: float, high: float) -> "Landscape":
        """The draws with low <= z < high."""
        kept = (self.distances >= low) & (self.distances < high)
        found = self.distances[kept], self.differences[kept], self.base[kept]
        return Landscape(*found, self.dimensions, self.gradient_norm)


@dataclass(frozen=True, eq=False)
class Spread:
    """Per bin of z: the root mean square of z and of the differences, the latter's standard error, and the draws."""

    distances: Array
    rms: Array
    standard_errors: Array
    draws: NDArray[np.int64]


def landscape(
    model: nn.Module,
    loss: Loss,
    *,
    draws: int,
    low: float = 0.0,
    high: float,
    generator: torch.Generator,
    noisy: bool = False,
    smooth: Loss | None = None,
) -> Landscape:
    """Draw `draws` directions, uniform on the sphere of all trainable weights, and distances z ~ U(low, high).

    Weights, buffers, modes, gradients and torch's global random state are left as they were, bit for bit.

    Args:
        model: evaluated as it is; put it into evaluation mode for a loss that does not depend on the batch.
        loss: evaluated once at w_0, and once per draw at w_0 + z v.
        draws: how many; the paper took 1,000.
        low: the smallest distance.
        high: the largest distance; the paper's 10.
        generator: on the CPU, for directions and distances.
        noisy: the loss draws a fresh batch at each call; L(w_0) is then taken anew for every draw, lest the noise of a
            single one be added to all.
        smooth: the loss whose gradient makes the Taylor line, where it is not that of `loss`: the gradient of one batch
            is longer than that of the mean.
    """
    weights = trainable(model)
    distances = low + (high - low) * torch.rand(draws, generator=generator, dtype=torch.float64).numpy()
    base, moved = np.empty(draws), np.empty(draws)
    with undisturbed(model):
        gradient = _gradient(smooth or loss, weights)
        for draw, z in enumerate(distances):
            direction, again = random_direction(weights, generator), noisy or draw == 0
            losses = loss_along(loss, weights, direction, [0.0, z] if again else [z])
            base[draw], moved[draw] = losses[0] if again else base[0], losses[-1]
    dimensions = sum(weight.numel() for weight in weights)
    return Landscape(distances, moved - base, base, dimensions, _norm(gradient))


def loss_along(loss: Loss, weights: Sequence[Tensor], direction: Sequence[Tensor], distances: ArrayLike) -> Array:
    """L(w_0 + z v) for each z of `distances`; the weights are put back bit for bit. Wrap it in `undisturbed`.

    That is for what the loss itself does to buffers in training mode, which this function does not see.
    """
    start = [weight.detach().clone() for weight in weights]
    losses = []
    with torch.no_grad():
        try:
            for z in np.asarray(distances, dtype=np.float64).tolist():
                for weight, here, v in zip(weights, start, direction, strict=True):
                    weight.copy_(torch.add(here, v, alpha=z))
                losses.append(float(loss()))
        finally:
            for weight, here in zip(weights, start, strict=True):
                weight.copy_(here)
    return np.array(losses)


def random_direction(weights: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A unit vector over all `weights` together, uniform on the sphere, on their devices and in their dtypes."""
    normal = [torch.randn(weight.shape, generator=generator) for weight in weights]
    length = _norm(normal)
    return [(part / length).to(weight) for part, weight in zip(normal, weights, strict=True)]


def spread(distances: ArrayLike, differences: ArrayLike, edges: ArrayLike) -> Spread:
    """Root mean square of the differences in each bin edges[i] <= z < edges[i + 1], with its standard error.

    By the delta method from the variance of the squares. Draws outside all bins are left out.

    Raises:
        ValueError: a bin with fewer than two draws.
    """
    z, squares = np.asarray(distances, dtype=np.float64), np.asarray(differences, dtype=np.float64) ** 2
    bounds = np.asarray(edges, dtype=np.float64)
    bins = [(z >= low) & (z < high) for low, high in pairwise(bounds)]
    draws = np.array([int(kept.sum()) for kept in bins])
    if not draws.size or draws.min() < 2:
        raise ValueError(f"each bin needs at least 2 draws, got {draws.tolist()} between {bounds.tolist()}")
    rms = np.array([math.sqrt(squares[kept].mean()) for kept in bins])
    errors = np.array([squares[kept].std(ddof=1) / math.sqrt(kept.sum()) for kept in bins])
    return Spread(np.array([math.sqrt((z[kept] ** 2).mean()) for kept in bins]), rms, errors / (2.0 * rms), draws)


def fit_alpha(bins: Spread, level: float = 0.95) -> Interval:
    """alpha = twice the slope of ln rms on ln z, by least squares weighted with the number of draws.

    Bins are independent, since each draw has a direction of its own. The weights are not the measured errors, which are
    small where a bin happens to be small, and would pull the line there.

    Raises:
        ValueError: fewer than two bins.
    """
    if len(bins.rms) < 2:
        raise ValueError(f"a slope needs at least 2 bins, got {len(bins.rms)}")
    x, weights = np.log(bins.distances), bins.draws / bins.draws.sum()
    x = x - weights @ x
    shares = 2.0 * weights * x / (weights @ x**2)
    error = float(np.linalg.norm(shares * bins.standard_errors / bins.rms))
    return Contrast(float(shares @ np.log(bins.rms)), error, float((bins.draws - 1).sum())).interval(level)


def taylor_line(distances: ArrayLike, gradient_norm: float, dimensions: int) -> Array:
    """z |grad L(w_0)| / sqrt(D): the spread to first order, exact for directions uniform on the sphere."""
    return taylor_curve(distances, gradient_norm, dimensions, 0.0, 0.0)


def taylor_curve(
    distances: ArrayLike, gradient_norm: float, dimensions: int, trace: float, square_trace: float
) -> Array:
    """The spread with the second-order term: rms^2 = z^2 |grad|^2/D + z^4/4 (tr(H)^2 + 2 tr(H^2)) / (D (D + 2)).

    v'Hv has mean tr(H)/D and, on the sphere, E (v'Hv)^2 = (tr(H)^2 + 2 tr(H^2)) / (D (D + 2)); its product with grad.v
    is odd and has mean 0. The product of gradient and third derivative is of order z^4 too and is left out. For a
    network of ReLUs H is that of one linear piece, and does not see the kinks between pieces.
    """
    z, d = np.asarray(distances, dtype=np.float64), dimensions
    second = (trace**2 + 2.0 * square_trace) / (d * (d + 2.0))
    return np.sqrt(z**2 * gradient_norm**2 / d + z**4 / 4.0 * second)


def taylor_ratio(differences: ArrayLike, predicted: ArrayLike, level: float = 0.95) -> Interval | None:
    """Measured spread over the predicted one, per draw, as sqrt(sum differences^2 / sum predicted^2); 1: it is Taylor.

    Fieller's interval of the ratio of squares, over draws; None where the prediction is not resolved from 0.
    """
    measured, expected = (np.asarray(values, dtype=np.float64) ** 2 for values in (differences, predicted))
    squares = fieller(measured.tolist(), expected.tolist(), level)
    if squares is None:
        return None
    return Interval(*(math.sqrt(max(0.0, bound)) for bound in (squares.estimate, squares.low, squares.high)))


def hessian_traces(
    model: nn.Module, loss: Loss, *, probes: int, generator: torch.Generator
) -> tuple[Contrast, Contrast]:
    """tr(H) and tr(H^2) of a deterministic loss: the means of u'Hu and |Hu|^2 over random signs u (Hutchinson, 1990).

    Costs one gradient and one Hessian-vector product per probe. The model is left as it was, as by `landscape`.
    """
    weights = trainable(model)
    traces, squares = [], []
    with undisturbed(model), torch.enable_grad():
        gradient = torch.autograd.grad(loss(), weights, create_graph=True, materialize_grads=True)
        for _ in range(probes):
            signs = [(2.0 * torch.randint(2, w.shape, generator=generator) - 1.0).to(w) for w in weights]
            along = sum((g * u).sum() for g, u in zip(gradient, signs, strict=True))
            assert isinstance(along, Tensor)
            product = torch.autograd.grad(along, weights, retain_graph=True, materialize_grads=True)
            traces.append(float(sum((h.double() * u.double()).sum() for h, u in zip(product, signs, strict=True))))
            squares.append(_norm(product) ** 2)
    return paired_contrast(traces), paired_contrast(squares)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, weights, buffers, modes and torch's global random state are put back, bit for bit."""
    tensors = [*model.parameters(), *model.buffers()]
    kept, modes = [tensor.detach().clone() for tensor in tensors], [m.training for m in model.modules()]
    devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, training in zip(model.modules(), modes, strict=True):
                module.training = training
            with torch.no_grad():
                for tensor, then in zip(tensors, kept, strict=True):
                    tensor.copy_(then)


def _gradient(loss: Loss, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    with torch.enable_grad():
        return torch.autograd.grad(loss(), weights, materialize_grads=True)


def _norm(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(part.detach().double().square().sum()) for part in parts))
