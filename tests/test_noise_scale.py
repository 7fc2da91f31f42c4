"""Known answers: Gaussian gradients with a given covariance and mean."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rebatch.noise_scale import BLOCKS, BROKEN, estimate_noise_scale, spread, trace_and_square

Array = NDArray[np.float64]

DIMENSIONS = 40
SQUARE = 1.0


def steps_of(
    noise_scale: float, batch: int, micro: int, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[Array, Array]:
    """tr and |G|^2 as estimated from batch/micro equal pieces of isotropic noise in 40 dimensions, |G|^2 = 1."""
    pieces, variance = batch // micro, noise_scale * SQUARE / DIMENSIONS
    mean = rng.standard_normal((*shape, DIMENSIONS)) * math.sqrt(variance / batch)
    mean[..., 0] += math.sqrt(SQUARE)
    batch_square = (mean**2).sum(-1)
    scatter = rng.chisquare((pieces - 1) * DIMENSIONS, shape) * variance / (micro * pieces)
    return trace_and_square(batch_square + scatter, batch_square, *spread([micro] * pieces))


@pytest.mark.parametrize("weights", [None, [1 / 3, 1 / 3, 1 / 3], [0.5, 0.2, 0.3]], ids=["examples", "equal", "other"])
def test_pieces_of_any_sizes_and_weights_are_unbiased(weights: list[float] | None) -> None:
    rng, sizes, repeats = np.random.default_rng(0), [2, 3, 7], 40_000
    deviations, mean = np.array([1.0, 0.5, 2.0]), np.array([0.3, -0.2, 0.5])
    pieces = np.stack([mean + deviations * rng.standard_normal((repeats, 3)) / math.sqrt(m) for m in sizes])
    w = np.array(weights or [m / sum(sizes) for m in sizes])
    s = np.einsum("k,krd->r", w, pieces**2)
    b = (np.einsum("k,krd->rd", w, pieces) ** 2).sum(-1)
    for found, expected in zip(
        trace_and_square(s, b, *spread(sizes, weights)), ((deviations**2).sum(), (mean**2).sum()), strict=True
    ):
        error = found.std(ddof=1) / math.sqrt(repeats)
        assert abs(found.mean() - expected) / error < 4


# True noise scale, batch, micro-batch, steps; how often the upper end is open (`measuring-and-peers.md` has the like).
CASES = [(100, 1024, 256, 50, 0.0), (500, 256, 64, 50, 0.0), (500, 256, 64, 400, 0.0), (5000, 32, 16, 200, 0.9)]


@pytest.mark.parametrize(("truth", "batch", "micro", "steps", "open_share"), CASES)
def test_intervals_cover_their_level(truth: float, batch: int, micro: int, steps: int, open_share: float) -> None:
    repeats = 600
    traces, squares = steps_of(truth, batch, micro, (repeats, steps), np.random.default_rng(1))
    found = [estimate_noise_scale(*pair) for pair in zip(traces, squares, strict=True)]
    covered = sum(each.low <= truth <= each.high for each in found)
    # A broken assumption is claimed at most where the truth would be missed.
    z = (covered - 0.95 * repeats) / math.sqrt(repeats * 0.95 * 0.05)
    assert abs(z) < 4
    opened = sum(math.isinf(each.high) for each in found) / repeats
    assert opened == pytest.approx(open_share, abs=0.1)


def test_a_mean_of_ratios_would_be_wrong() -> None:
    traces, squares = steps_of(500, 64, 16, (4000,), np.random.default_rng(2))
    found = estimate_noise_scale(traces, squares)
    assert found.low < 500 < found.high
    assert abs(float(np.mean(traces / squares)) - 500) > 50


def test_finite_data_ask_for_the_square_of_the_training_gradient() -> None:
    rng, examples, batch = np.random.default_rng(3), 60, 12
    gradients = rng.standard_normal((examples, 5)) + 0.2
    truth = float((gradients.mean(0) ** 2).sum())
    order = np.stack([rng.permutation(examples)[:batch] for _ in range(30_000)])
    pieces = gradients[order].reshape(-1, 3, batch // 3, 5).mean(2)
    s, b = (pieces**2).sum(-1).mean(1), (pieces.mean(1) ** 2).sum(-1)
    trace, square = trace_and_square(s, b, *spread([4, 4, 4]))
    with_correction = estimate_noise_scale(trace, square, examples=examples)
    fresh = estimate_noise_scale(trace, square)
    assert with_correction.square.low < truth < with_correction.square.high
    assert not fresh.square.low < truth < fresh.square.high
    assert with_correction.trace.low < gradients.var(0, ddof=1).sum() < with_correction.trace.high


def test_what_is_needed_to_close_the_interval_is_about_right() -> None:
    rng = np.random.default_rng(4)
    few = [estimate_noise_scale(*steps_of(2000, 64, 16, (100,), rng)) for _ in range(200)]
    needed = np.nanmedian([each.steps_needed for each in few])
    assert sum(math.isinf(each.high) for each in few) > 100

    def closed(steps: float) -> int:
        traces, squares = steps_of(2000, 64, 16, (100, round(steps)), rng)
        pairs = zip(traces, squares, strict=True)
        return sum(not math.isinf(estimate_noise_scale(*pair).high) for pair in pairs)

    assert closed(needed / 4) < 50
    assert closed(needed * 4) > 80


def test_it_says_what_it_knows() -> None:
    rng = np.random.default_rng(5)
    closed = estimate_noise_scale(*steps_of(100, 256, 64, (100,), rng))
    assert f"{closed.estimate:.3g}, {closed.low:.3g} to {closed.high:.3g}, over 100 steps" == str(closed)
    at_least = estimate_noise_scale(*steps_of(5000, 32, 16, (100,), rng))
    assert math.isinf(at_least.high)
    assert str(at_least).startswith(f"at least {at_least.low:.3g}, over 100 steps")
    noise = rng.standard_normal((2, 50))
    assert str(estimate_noise_scale(noise[0], noise[1])).startswith("not resolved, over 50 steps")


def test_a_negative_square_is_refused_and_not_reported() -> None:
    rng = np.random.default_rng(6)
    found = estimate_noise_scale(5.0 + rng.standard_normal(100), -1.0 + 0.1 * rng.standard_normal(100))
    assert math.isnan(found.estimate)
    assert str(found) == BROKEN


def test_bad_pieces_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"at least 2 pieces with examples in each, got sizes \[8\]"):
        spread([8])
    with pytest.raises(ValueError, match=r"add up to 1, got 0\.9"):
        spread([4, 4], [0.5, 0.4])
    with pytest.raises(ValueError, match="at least 2 steps, got 1 traces"):
        estimate_noise_scale([1.0], [1.0])


def test_blocks_take_up_drift_between_neighbors() -> None:
    # Noise that two neighboring steps share would halve the interval if steps counted as independent.
    rng, repeats, steps = np.random.default_rng(7), 400, 400
    traces, squares = steps_of(500, 256, 64, (repeats, steps // 4), rng)
    found = [
        estimate_noise_scale(np.repeat(one, 4), np.repeat(other, 4)) for one, other in zip(traces, squares, strict=True)
    ]
    covered = sum(each.low <= 500 <= each.high for each in found)
    assert steps // 4 > 2 * BLOCKS
    assert (covered - 0.95 * repeats) / math.sqrt(repeats * 0.95 * 0.05) > -4
