"""How do mean and covariance of a single weight update change with batch size, learning rate, noise and replacement?

At fixed weights, the update dw = -lr (1/M) sum z_n g_n over a random batch of M of N examples has a mean and a
covariance. Hoffer et al. (2017, section 4) choose the learning rate so that the covariance stays: its trace for the
large batch over that for the small one is then 1 (sqrt rule; the linear rule gives kappa), while the length of the mean
update grows by sqrt(kappa); multiplicative noise z ~ N(1, kappa - 1) keeps both.

A network with batch norm couples the examples of a batch, and the closed form does not hold for it: leave batch norm
out, or fix the ghosts (batches come in random order, so consecutive ghosts are random too).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebatch.interval import Interval
from rebatch.statistics import Contrast, fieller, paired_contrast

Array = NDArray[np.float64]

Gradient = Callable[[Tensor, Tensor], Tensor]
"""Indices (M,) int64 and weights z (M,) float64 of a batch to the flat gradient (D,) of mean(z * loss per example)."""

# Two give a covariance, and the jackknife leaves one out.
LEAST_DRAWS = 3


@dataclass(frozen=True)
class Setting:
    """How an update is made: `noise` is the standard deviation sigma of the weights z ~ N(1, sigma^2) of the losses."""

    batch_size: int
    lr: float
    noise: float = 0.0
    replacement: bool = False


@dataclass(frozen=True)
class Moments:
    """Squared length of the mean update and trace of its covariance."""

    mean_square: float
    trace: float


def update_moments(per_example: Tensor, setting: Setting) -> Moments:
    """The moments of one update, exactly, from all examples' gradients g of shape (N, D), in float64.

    With gbar the mean of g, tr C the mean of |g - gbar|^2, and f = 1 with replacement, (N - M)/(N - 1) without:

        |E dw|^2 = lr^2 |gbar|^2        tr cov(dw) = lr^2/M (f tr C + sigma^2 (tr C + |gbar|^2)).

    Given the batch, the noise has covariance sigma^2/M^2 sum g g', with mean sigma^2/M (C + gbar gbar'); the batch
    itself adds f C/M. So sigma^2 = kappa - 1 keeps the covariance of a batch kappa times smaller but for f and for the
    term (kappa - 1)/M |gbar|^2, which the paper leaves out.
    """
    gradients = per_example.double()
    mean = gradients.mean(0)
    mean_square = float(mean.square().sum())
    trace = float((gradients - mean).square().sum()) / len(gradients)
    m, n = setting.batch_size, len(gradients)
    share = 1.0 if setting.replacement else (n - m) / (n - 1)
    per_draw = share * trace + setting.noise**2 * (trace + mean_square)
    return Moments(setting.lr**2 * mean_square, setting.lr**2 / m * per_draw)


def sample_updates(
    gradient: Gradient, examples: int, setting: Setting, *, draws: int, rng: np.random.Generator
) -> Tensor:
    """`draws` independent updates at the weights that `gradient` holds; shape (draws, D), on its device, in its dtype.

    All are kept: draws * D numbers (64 updates of a network of 1.5 million weights are 400 MB in float32). Where only
    their moments are wanted, `sample_moments` keeps two updates' worth.

    Raises:
        ValueError: a batch that is larger than the set, drawn without replacement.
    """
    return torch.stack(list(_updates(gradient, examples, setting, draws, rng)))


def sample_moments(
    gradient: Gradient, examples: int, setting: Setting, *, draws: int, rng: np.random.Generator
) -> Moments:
    """What `mean_step_square` and `covariance_trace` estimate of `draws` updates, each looked at once and let go.

    Mean and sum of squares are carried along in float64 (Welford, 1962), so the estimates are the same but for
    rounding. The squared length of the mean may be estimated below zero.

    Raises:
        ValueError: fewer than three draws, or a batch that is larger than the set, drawn without replacement.
    """
    if draws < LEAST_DRAWS:
        raise ValueError(f"draws must be at least {LEAST_DRAWS}, got {draws}")
    mean, squares = torch.zeros((), dtype=torch.float64), 0.0
    for count, update in enumerate(_updates(gradient, examples, setting, draws, rng), start=1):
        away = update.double() - mean
        mean = mean + away / count
        squares += (count - 1) / count * float(away.square().sum())
    trace = squares / (draws - 1)
    return Moments(float(mean.square().sum()) - trace / draws, trace)


def mean_step_square(updates: Tensor) -> Contrast:
    """|E dw|^2 from independent updates (R, D), R >= 3, unbiased, with the standard error of its jackknife.

    The squared length of the sample mean is too large by tr cov / R, often many times the truth; the mean of
    dw_r . dw_s over pairs r != s is right. The estimate may be negative.
    """
    return paired_contrast(mean_step_square_values(updates))


def covariance_trace(updates: Tensor) -> Contrast:
    """tr cov(dw) from independent updates (R, D), R >= 3, unbiased, with the standard error of its jackknife."""
    return paired_contrast(covariance_trace_values(updates))


def mean_step_ratio(large: Tensor, small: Tensor, level: float = 0.95) -> Interval | None:
    """|E dw_large| / |E dw_small| from equally many independent updates; None where the small one is not resolved.

    sqrt(kappa) for the square-root rule and 1 for multiplicative noise. Fieller's interval of the ratio of squares; a
    bound that lies under 0 is put to 0.
    """
    squares = fieller(mean_step_square_values(large).tolist(), mean_step_square_values(small).tolist(), level)
    if squares is None:
        return None
    return Interval(*(math.sqrt(max(0.0, bound)) for bound in (squares.estimate, squares.low, squares.high)))


def trace_ratio(large: Tensor, small: Tensor, level: float = 0.95) -> Interval | None:
    """tr cov(dw_large) / tr cov(dw_small) from equally many independent updates, with Fieller's interval.

    1 for the square-root rule with replacement, kappa for the linear one.
    """
    return fieller(covariance_trace_values(large).tolist(), covariance_trace_values(small).tolist(), level)


def covariance_trace_values(updates: Tensor) -> Array:
    """Jackknife pseudo-values (R,) of the trace of the sample covariance: their mean is the estimate itself.

    Leaving out r takes R/(R-1) |dw_r - mean|^2 from the sum of squares.
    """
    r = _require_draws(updates)
    away, _, _ = _lengths(updates)
    total = away.sum()
    without = (total - r / (r - 1) * away) / (r - 2)
    return np.asarray(r * total / (r - 1) - (r - 1) * without)


def mean_step_square_values(updates: Tensor) -> Array:
    """Jackknife pseudo-values (R,) of the mean of dw_r . dw_s over pairs r != s: their mean is the estimate itself."""
    r = _require_draws(updates)
    _, square, along = _lengths(updates)
    pairs = r * along.sum() - square.sum()  # |sum dw|^2 - sum |dw|^2
    without = (pairs - 2.0 * (r * along - square)) / ((r - 1) * (r - 2))
    return np.asarray(pairs / (r - 1) - (r - 1) * without)


def _updates(
    gradient: Gradient, examples: int, setting: Setting, draws: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    if setting.batch_size > examples and not setting.replacement:
        raise ValueError(f"batch_size without replacement is at most {examples} examples, got {setting.batch_size}")
    for _ in range(draws):
        yield -setting.lr * _one(gradient, examples, setting, rng)


def _one(gradient: Gradient, examples: int, setting: Setting, rng: np.random.Generator) -> Tensor:
    indices = rng.choice(examples, setting.batch_size, replace=setting.replacement)
    weights = rng.normal(1.0, setting.noise, setting.batch_size)
    return gradient(torch.from_numpy(indices), torch.from_numpy(weights)).detach()


def _lengths(updates: Tensor) -> tuple[Array, Array, Array]:
    """|dw - mean|^2, |dw|^2 and dw . mean per update, in float64, one update at a time to spare the memory."""
    mean = updates.mean(0, dtype=torch.float64)
    rows = [
        torch.stack([(row - mean).square().sum(), row.square().sum(), row @ mean])
        for row in (update.double() for update in updates)
    ]
    away, square, along = torch.stack(rows, dim=1).cpu().numpy()
    return away, square, along


def _require_draws(updates: Tensor) -> int:
    if updates.dim() != 2 or len(updates) < LEAST_DRAWS:
        raise ValueError(f"expected {LEAST_DRAWS} or more updates of shape (draws, D), got {tuple(updates.shape)}")
    return len(updates)
