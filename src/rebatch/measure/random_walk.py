"""How far does a particle get in a random potential, and is it (log t)^(2/alpha)? (Hoffer et al., 2017, section 3.)

The paper's model of the start of training: the loss is a Gaussian random field with

    E (L(w1) - L(w2))^2 ~ |w1 - w2|^alpha,        so        E d^2 ~ (log t)^(4 / alpha)        (ultra-slow diffusion),

because the barriers within a distance d grow as d^(alpha/2) and a barrier is passed in a time that is exponential in
it (Sinai, 1982, Theory Probab. Appl. 27; Marinari et al., 1983, Phys. Rev. Lett. 50; Bouchaud and Georges, 1990, Phys.
Rep. 195). In one dimension the field is a fractional Brownian path with Hurst exponent H = alpha/2, and the law is
known: alpha = 1 is Sinai's walk, a theorem. That is the case here: a walk on a lattice, one potential per walker.
One dimension is the hard case, with no way round a barrier; in many dimensions the law is an argument, not a theorem.

The field with alpha = 2 has no barriers at all: the only Gaussian field with E (L(w1) - L(w2))^2 = |w1 - w2|^2 at all
distances is a plane of random slope, in any dimension, on which a walk drifts with d ~ t. "alpha = 2, so d ~ log t" is
the limit alpha -> 2 of a law whose barriers die out on the way; so alpha here stays under 2.

A step by step walker sees log t to 15 or so. `mean_square_distance` has no such limit: see there.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rebatch.interval import Interval
from rebatch.statistics import paired_contrast

Array = NDArray[np.float64]

EDGE = 0.1
"""The outer share of the sites on each side where walkers are too near the edge ..."""
EDGE_PROBABILITY = 0.01
"""... and the mean probability to be there from which results would be of the box, not of the potential."""


def fractional_potential(
    alpha: float, sites: int, walkers: int, rng: np.random.Generator, *, scale: float = 1.0
) -> Array:
    """Fractional Brownian paths of shape (walkers, sites): E (V(x) - V(y))^2 = scale^2 |x - y|^alpha exactly.

    In units of the temperature, and 0 in the middle. The increments are stationary Gaussian noise, made by circulant
    embedding (Davies and Harte, 1987, Biometrika 74): exact, since all eigenvalues of the embedding are nonnegative for
    0 < alpha < 2.

    Raises:
        ValueError: alpha outside (0, 2), or a number of sites without a middle.
    """
    if not 0.0 < alpha < 2.0:
        raise ValueError(f"alpha must lie between 0 and 2, got {alpha}; at 2 the potential is a slope without barriers")
    _require_middle(sites)
    spectrum = np.sqrt(_embedding(alpha, sites - 1))
    potential = np.zeros((walkers, sites))
    for row in potential:  # one at a time: a row is long enough, and the embedding doubles the memory
        white = rng.standard_normal(2 * (sites - 1))
        row[1:] = np.cumsum(np.fft.irfft(np.fft.rfft(white) * spectrum, len(white))[: sites - 1])
    return scale * (potential - potential[:, sites // 2, None])


def flat_potential(sites: int, walkers: int) -> Array:
    """The control without barriers: E d^2 = t, so d ~ t^(1/2); shape (walkers, sites)."""
    _require_middle(sites)
    return np.zeros((walkers, sites))


def hop_probabilities(potential: Array) -> tuple[Array, Array]:
    """Probabilities to step left and right, each of the shape of `potential`: a direction by chance, then Metropolis.

    P(x -> x +- 1) = min(1, exp(-(V(x +- 1) - V(x)))) / 2, else the walker stays; nothing leaves the lattice. Detailed
    balance holds with respect to exp(-V).
    """
    climb = np.diff(potential, axis=-1)
    left, right = np.zeros_like(potential), np.zeros_like(potential)
    right[..., :-1] = 0.5 * np.exp(-np.maximum(climb, 0.0))
    left[..., 1:] = 0.5 * np.exp(np.minimum(climb, 0.0))
    return left, right


def walk(potential: Array, steps: int, rng: np.random.Generator, record: ArrayLike) -> NDArray[np.int64]:
    """Displacements from the middle after each of the numbers of steps `record`; one walker per row of `potential`.

    Args:
        potential: shape (walkers, sites), in units of the temperature.
        steps: how many steps are walked.
        rng: one uniform number per walker and step.
        record: whole numbers from 0 to `steps`, shape (records,), in any order.

    Returns:
        Shape (walkers, records).
    """
    walkers, sites = potential.shape
    _require_middle(sites)
    wanted = np.asarray(record, dtype=np.int64)
    if wanted.min() < 0 or wanted.max() > steps:
        raise ValueError(f"record must lie between 0 and steps={steps}, got {wanted.min()} to {wanted.max()}")
    left, right = (table.ravel() for table in hop_probabilities(potential))
    first = np.arange(walkers) * sites + sites // 2
    place, found = first.copy(), np.zeros((walkers, len(wanted)), dtype=np.int64)
    for step in range(1, steps + 1):
        chance = rng.random(walkers)
        place += (chance < right[place]).astype(np.int64) - (chance >= 1.0 - left[place])
        if step in wanted:
            found[:, wanted == step] = (place - first)[:, None]
    return found


def mean_square_distance(potential: Array, times: ArrayLike) -> Array:
    """E d^2 in each potential, exactly, at exponentially distributed times of the given means; shape (walkers, times).

    A walk that is stopped after a geometric number of steps with mean t (or, the same, that hops in continuous time
    with the same rates up to an exponential time with mean t) is found by the resolvent:

        E_start d(T)^2 = ((I - t Q)^-1 d^2)(start),        Q = P - I tridiagonal.

    It is eliminated from both ends to the middle without a subtraction, so that every digit survives barriers of any
    height, where powers or eigenvectors of P lose the slow modes: t = 1e100 is as exact as t = 1, at O(sites) each.
    log T = log t - 0.58 +- 1.28 whatever t is, so a law in log t is the same for both clocks, and E d^2 = t stays t.

    Raises:
        ValueError: the walkers come too near the edge of the lattice.
    """
    clock = np.asarray(times, dtype=np.float64)
    if clock.ndim != 1 or not ((clock > 0.0) & (clock < 1e280)).all():
        raise ValueError(f"times must be a list of numbers between 0 and 1e280, got {clock.tolist()}")
    distance = np.arange(potential.shape[-1] // 2 + 1)
    edge = distance > (1.0 - EDGE) * distance[-1]
    square, near_edge = _mean_at_exponential_times(potential, clock, np.stack([distance**2, edge]).astype(np.float64))
    reached = near_edge.mean(axis=0)
    if reached.max() > EDGE_PROBABILITY:
        raise ValueError(
            f"at t = {clock[reached.argmax()]:.3g} walkers are near the edge with probability {reached.max():.2g}, "
            f"limit {EDGE_PROBABILITY}; take more sites than {potential.shape[-1]} or shorter times"
        )
    return np.asarray(square)


def log_time_exponent(times: ArrayLike, square_distances: Array, level: float = 0.95) -> Interval:
    """The exponent of d = sqrt(E d^2) in log t, expected 2/alpha; see `exponent`. Times must be well above 1."""
    return exponent(np.log(np.asarray(times, dtype=np.float64)), square_distances, level)


def exponent(x: ArrayLike, square_distances: Array, level: float = 0.95) -> Interval:
    """The slope of ln sqrt(mean over walkers of d^2) on ln x by least squares, with an interval over walkers.

    `square_distances` has shape (walkers, len(x)); walkers are independent, the points of one walker are not. Student's
    t on the pseudo-values of the jackknife, which leaves out one walker at a time and takes off most of the bias that
    the logarithm of a mean has.
    """
    squares, scale = np.asarray(square_distances, dtype=np.float64), np.log(np.asarray(x, dtype=np.float64))
    walkers = len(squares)
    if squares.shape[1:] != scale.shape or walkers < 2 or len(scale) < 2:
        raise ValueError(f"expected (2 or more walkers, {len(scale)} or more than 1 points), got {squares.shape}")
    centered = scale - scale.mean()
    weights = 0.5 * centered / (centered @ centered)  # 0.5: of d, not of d^2
    total = squares.sum(axis=0)
    whole = np.log(total / walkers) @ weights
    without = np.log((total - squares) / (walkers - 1)) @ weights
    return paired_contrast(walkers * whole - (walkers - 1) * without).interval(level)


def _embedding(alpha: float, n: int) -> Array:
    """Eigenvalues of the circulant of size 2n that holds the covariance of n steps of a fractional Brownian path."""
    lags = np.arange(1, n + 1, dtype=np.float64)
    # (k+1)^a - 2 k^a + (k-1)^a, written so that its cancellation costs digits as k and not as k^2.
    with np.errstate(divide="ignore"):  # log1p(-1) at lag 1
        later = lags**alpha * (np.expm1(alpha * np.log1p(1.0 / lags)) + np.expm1(alpha * np.log1p(-1.0 / lags)))
    covariance = np.concatenate([[1.0], 0.5 * later])
    eigenvalues = np.fft.rfft(np.concatenate([covariance, covariance[-2:0:-1]])).real
    assert eigenvalues.min() > -1e-8 * eigenvalues.max(), "circulant embedding of fractional noise is nonnegative"
    return np.maximum(eigenvalues, 0.0)


def _mean_at_exponential_times(potential: Array, times: Array, values: Array) -> Array:
    """E f(|x|) at exponential times for functions f of the distance; values (f, half + 1) -> (f, walkers, times).

    The mean f(x) from each site solves f (1 + l + r) = value + l f(left) + r f(right), with l, r the rates times t. A
    site k at a distance from the middle passes on to its inner neighbour, when it is eliminated, a share
    q = out / (u + in) of its sums: u (the rate at which a walker that starts there ends outside the inner sites) and G
    (the same, times the value where it ends).
    """
    _require_middle(potential.shape[-1])
    half = potential.shape[-1] // 2
    left, right = (np.moveaxis(table, -1, 0) for table in hop_probabilities(potential))  # (sites, walkers)
    outward = np.stack([left[half::-1], right[half:]], axis=1)[..., None]  # (half + 1, side, walkers, 1)
    inward = np.stack([right[half::-1], left[half:]], axis=1)[..., None]
    values = values[:, :, None, None, None]
    u = np.ones((2, potential.shape[0], len(times)))
    g = values[:, half] * u
    for k in range(half, 0, -1):
        share = times * outward[k - 1] / (u + times * inward[k])
        # The middle (k = 1) adds up both sides below; every other site adds its own ending and value.
        u, g = share * u + (k > 1), share * g + (values[:, k - 1] if k > 1 else 0.0)
    return np.asarray((values[:, 0, 0] + g.sum(axis=1)) / (1.0 + u.sum(axis=0)))


def _require_middle(sites: int) -> None:
    if sites < 3 or sites % 2 == 0:
        raise ValueError(f"sites must be an odd number from 3, got {sites}: walkers start in the middle")
