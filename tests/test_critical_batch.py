"""The curve of steps and examples: known answers with either bend, coverage, open ends."""

import math

import numpy as np
import pytest

from rebatch.bend import BEND, HYPERBOLA
from rebatch.critical_batch import climb, drawn_steps, first_passage, fit_critical_batch_size
from rebatch.interval import Interval
from rebatch.price import examples_factor

SIZES = [16, 16, 64, 64, 256, 256, 1024, 1024]


def steps_at(
    sizes: list[int], critical: float, least: float, scatter: float, rng: np.random.Generator, bend: float = BEND
) -> list[float]:
    """The formula as it is written down, times a factor by chance."""
    curve = [least * (1 + (critical / size) ** bend) ** (1 / bend) for size in sizes]
    return [steps * math.exp(scatter * rng.standard_normal()) for steps in curve]


@pytest.mark.parametrize("bend", [HYPERBOLA, BEND])
def test_exact_steps_give_the_exact_answer(bend: float) -> None:
    steps = steps_at(SIZES, 150, 70, 0.0, np.random.default_rng(0), bend)
    fit = fit_critical_batch_size(SIZES, steps, bend=bend)
    assert fit.batch_size.estimate == pytest.approx(150, rel=0.01)
    assert fit.least_steps.estimate == pytest.approx(70, rel=0.01)
    assert fit.least_examples.estimate == pytest.approx(150 * 70, rel=0.01)
    assert fit.scatter < 0.005
    # Both are as many times their least there: twice, with a hyperbola.
    times = 2 ** (1 / bend)
    assert fit.steps(fit.batch_size.estimate) == pytest.approx(times * 70, rel=0.01)
    assert fit.examples(fit.batch_size.estimate) == pytest.approx(times * 150 * 70, rel=0.01)
    # What their least means: the limits of huge batches, and of tiny ones.
    assert fit.steps(1e9) == pytest.approx(fit.least_steps.estimate, rel=1e-5)
    assert fit.examples(1e-6) == pytest.approx(fit.least_examples.estimate, rel=1e-5)


def test_the_fit_and_the_price_have_one_curve() -> None:
    fit = fit_critical_batch_size(SIZES, steps_at(SIZES, 150, 70, 0.1, np.random.default_rng(0)))
    for old, new in ((16, 1024), (1024, 16), (100, 200)):
        factor = examples_factor(old, new, fit.batch_size.estimate)
        assert fit.examples(new) / fit.examples(old) == pytest.approx(factor, rel=1e-12)


def test_steps_on_a_hyperbola_are_not_those_of_the_bend() -> None:
    steps = steps_at(SIZES, 150, 70, 0.0, np.random.default_rng(0), HYPERBOLA)
    bent = fit_critical_batch_size(SIZES, steps)
    assert bent.scatter > 0.02
    assert fit_critical_batch_size(SIZES, steps, bend=HYPERBOLA).scatter < 0.002


@pytest.mark.parametrize("critical", [60.0, 400.0])
def test_intervals_cover_their_level(critical: float) -> None:
    rng, repeats = np.random.default_rng(1), 400
    hits = {"batch_size": 0, "least_steps": 0, "least_examples": 0}
    truth = {"batch_size": critical, "least_steps": 50.0, "least_examples": 50.0 * critical}
    for _ in range(repeats):
        fit = fit_critical_batch_size(SIZES, steps_at(SIZES, critical, 50.0, 0.1, rng))
        for name, value in truth.items():
            found: Interval = getattr(fit, name)
            hits[name] += found.low <= value <= found.high
    for name in hits:
        assert abs(hits[name] - 0.95 * repeats) / math.sqrt(repeats * 0.95 * 0.05) < 4, (name, hits)


def test_sizes_on_one_side_of_the_bend_leave_an_end_open() -> None:
    rng = np.random.default_rng(2)
    far_below = fit_critical_batch_size(SIZES, steps_at(SIZES, 1e6, 1.0, 0.1, rng))
    assert math.isinf(far_below.batch_size.high)
    assert far_below.least_steps.low == 0.0
    assert str(far_below).startswith("at least ")
    far_above = fit_critical_batch_size(SIZES, steps_at(SIZES, 0.1, 100.0, 0.1, rng))
    assert far_above.batch_size.low == 0.0
    assert str(far_above).startswith("at most ")
    resolved = fit_critical_batch_size(SIZES, steps_at(SIZES, 100, 100.0, 0.1, rng))
    assert str(resolved) == (
        f"{resolved.batch_size.estimate:.3g}, {resolved.batch_size.low:.3g} to {resolved.batch_size.high:.3g}, "
        "over 8 runs"
    )


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 runs that reached the loss, at 2 or more batch sizes, got 2 runs"):
        fit_critical_batch_size([1, 2], [10, 5])
    with pytest.raises(ValueError, match="got 3 runs at 1"):
        fit_critical_batch_size([8, 8, 8], [10, 11, 12])
    with pytest.raises(ValueError, match="that reached the loss"):
        fit_critical_batch_size([8, 16, 32], [10, math.inf, 12])


def test_drawn_steps_scatter_as_the_fits_of_repeated_runs_do() -> None:
    rng, at = np.random.default_rng(3), [32, 512]
    repeated = np.array(
        [
            [fit.steps(size) for size in at]
            for fit in (fit_critical_batch_size(SIZES, steps_at(SIZES, 150, 70, 0.1, rng)) for _ in range(300))
        ]
    )
    spreads = []
    for _ in range(20):
        drawn = drawn_steps(SIZES, steps_at(SIZES, 150, 70, 0.1, rng), at, draws=300, seed=0)
        spreads.append(np.log(drawn).std(axis=0))
    np.testing.assert_allclose(np.mean(spreads, axis=0), np.log(repeated).std(axis=0), rtol=0.2)


def test_drawn_steps_of_exact_runs_are_the_fit() -> None:
    steps = steps_at(SIZES, 150, 70, 0.0, np.random.default_rng(0))
    drawn = drawn_steps(SIZES, steps, [150], draws=5, seed=0)
    np.testing.assert_allclose(drawn, 2 ** (1 / BEND) * 70, rtol=0.01)


def test_a_first_passage_is_read_between_looks() -> None:
    looks = [(1, 2.0), (4, 1.4), (8, 1.6), (16, 1.0)]
    assert first_passage(looks, 1.7, start=2.3) == pytest.approx(2.5)
    assert first_passage(looks, 1.5, start=2.3) == pytest.approx(3.5)  # the first time, though it rises again
    assert first_passage(looks, 2.15, start=2.3) == pytest.approx(0.5)
    assert math.isinf(first_passage(looks, 0.9, start=2.3))


def test_a_climb_ends_between_worse_neighbors_or_when_it_has_asked_enough() -> None:
    asked: list[int] = []

    def cost(place: int) -> float:
        asked.append(place)
        return abs(place + 2.0)

    assert climb(cost, most=9) == -2
    assert sorted(asked) == [-3, -2, -1, 0, 1]  # each once
    assert climb(lambda place: -place, most=4) == 2
