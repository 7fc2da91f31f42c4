"""The knee of a sweep: exact and noisy sweeps, coverage of its intervals, no knee, a law as prior, messages."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rebatch.errors import RequestError
from rebatch.knee import Knee
from rebatch.knee_fit import SHAPES, Prior, Shape, fit_knee, predict
from rebatch.sweeps import Run, Sweep

SIZES = [16, 32, 64, 128, 256, 512, 1024]
RATES = [2.0 ** (step / 2) for step in range(-16, 8)]
SGD = Knee(batch_size=150.0, exponent=1.0, bend=1.0)
ADAMW = Knee(batch_size=150.0, exponent=0.7, bend=4.0)


def made(knee: Knee, sizes: Sequence[float] = SIZES, *, noise: float = 0.0, seed: int = 0) -> list[Run]:
    """Runs whose loss at each batch size is a parabola in ln rate around the knee's curve, through 1 far above it."""
    rng = np.random.default_rng(seed)
    return [
        Run(
            lr=lr,
            batch_size=size,
            loss=2.0 + 0.1 * math.log(size) + 0.03 * (math.log(lr) - knee.log_rate(size)) ** 2 + noise * rng.normal(),
        )
        for size in sizes
        for lr in RATES
    ]


def sweep(knee: Knee, sizes: Sequence[float] = SIZES, *, noise: float = 0.0, seed: int = 0) -> Sweep:
    return Sweep(tuple(made(knee, sizes, noise=noise, seed=seed)))


@pytest.mark.parametrize(("knee", "shape"), [(SGD, SHAPES["sgd"]), (ADAMW, SHAPES["adamw"])])
def test_exact_sweeps_give_the_exact_curve(knee: Knee, shape: Shape) -> None:
    fit = fit_knee(sweep(knee), shape)
    assert fit.knee.batch_size == pytest.approx(150, rel=0.02)
    assert fit.knee.exponent == pytest.approx(knee.exponent, abs=0.02)
    assert fit.lr == pytest.approx(1.0, rel=0.02)
    for size in (4, 100, 8000):
        assert predict(fit, size).estimate == pytest.approx(math.exp(knee.log_rate(size)), rel=0.06)
    assert fit.left_out == ()
    assert len(fit.rates) == len(SIZES)


@pytest.mark.parametrize(("knee", "shape"), [(SGD, SHAPES["sgd"]), (ADAMW, SHAPES["adamw"])])
def test_intervals_of_knee_and_predicted_rate_cover_their_level(knee: Knee, shape: Shape) -> None:
    """The predicted rate is held against what a further valley, as noisy as the sweep's, would give."""
    repeats, new = 200, 4096
    hits = {"knee": 0, "rate": 0}
    for seed in range(repeats):
        runs = made(knee, [*SIZES, new], noise=0.005, seed=seed)
        fit = fit_knee(Sweep(tuple(run for run in runs if run.batch_size < new)), shape)
        there = fit_knee(Sweep(tuple(runs)), shape).rates[-1]
        found = predict(fit, new)
        assert there.batch_size == new
        hits["knee"] += fit.batch_size.low <= knee.batch_size <= fit.batch_size.high
        hits["rate"] += found.low <= there.lr <= found.high
    for name, count in hits.items():
        assert abs(count - 0.9 * repeats) / math.sqrt(repeats * 0.9 * 0.1) < 4, (name, hits)


def test_a_sweep_below_the_knee_says_at_least() -> None:
    fit = fit_knee(sweep(Knee(batch_size=1e4, exponent=0.5, bend=4.0), noise=0.003), SHAPES["adamw"])
    assert math.isinf(fit.batch_size.high)
    assert 100 < fit.batch_size.low < 1e4
    assert str(fit) == f"no knee seen: at least {fit.batch_size.low:.3g}, over 7 batch sizes"


def test_a_sweep_above_the_knee_says_at_most() -> None:
    fit = fit_knee(sweep(Knee(batch_size=0.1, exponent=1.0, bend=1.0), noise=0.003), SHAPES["sgd"])
    assert fit.batch_size.low == 0.0
    assert 0.1 < fit.batch_size.high < 32
    assert str(fit).endswith("over 7 batch sizes: the best rate hardly rises")


def test_a_resolved_knee_is_told_with_its_interval() -> None:
    fit = fit_knee(sweep(SGD, noise=0.003), SHAPES["sgd"])
    low, high = fit.batch_size.low, fit.batch_size.high
    assert 0 < low < fit.batch_size.estimate < high < math.inf
    assert str(fit) == f"{fit.batch_size.estimate:.3g}, {low:.3g} to {high:.3g}, over 7 batch sizes"


def test_a_fit_does_not_depend_on_the_units() -> None:
    """Batch sizes in sequences or in tokens, rates of one convention or another."""
    here = made(ADAMW, noise=0.005)
    there = [Run(lr=5 * run.lr, batch_size=2048 * run.batch_size, loss=run.loss) for run in here]
    one, other = (fit_knee(Sweep(tuple(runs)), SHAPES["adamw"]) for runs in (here, there))
    assert other.knee.batch_size == pytest.approx(2048 * one.knee.batch_size, rel=1e-6)
    assert predict(other, 2048 * 5000).high == pytest.approx(5 * predict(one, 5000).high, rel=1e-6)


def test_doubt_grows_away_from_the_sweep() -> None:
    fit = fit_knee(sweep(SGD, noise=0.005), SHAPES["sgd"])
    widths = [math.log(found.high / found.low) for found in (predict(fit, size) for size in (128, 2, 0.01))]
    assert widths[0] < widths[1] <= widths[2]
    assert predict(fit, 128, level=0.5).high < predict(fit, 128).high


def test_batch_sizes_at_the_end_of_the_rates_are_left_out_and_named() -> None:
    runs = [run for run in made(SGD) if run.lr <= 0.5 or run.batch_size < 256]  # best from 256 on: over .63
    fit = fit_knee(Sweep(tuple(runs)), SHAPES["sgd"])
    assert [rate.batch_size for rate in fit.left_out] == [256, 512, 1024]
    assert {rate.edge for rate in fit.left_out} == {"highest"}
    assert fit.knee.batch_size == pytest.approx(150, rel=0.02)


def test_a_right_prior_helps_few_batch_sizes_and_many_overrule_a_wrong_one() -> None:
    alone: list[float] = []
    with_law: list[float] = []
    for seed in range(40):
        few = sweep(ADAMW, [16, 32, 64, 128], noise=0.005, seed=seed)
        for errors, prior in ((alone, None), (with_law, Prior(150.0, 0.3))):
            fit = fit_knee(few, SHAPES["adamw"], prior=prior)
            errors.append(abs(math.log(predict(fit, 1024).estimate) - ADAMW.log_rate(1024)))
    assert np.mean(with_law) < 0.9 * np.mean(alone)
    wrong = fit_knee(sweep(ADAMW, noise=0.001), SHAPES["adamw"], prior=Prior(5000.0, 0.8))
    assert wrong.knee.batch_size == pytest.approx(150, rel=0.1)


def test_too_few_batch_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(RequestError, match=r"^a knee needs at least 3 batch sizes .* got 2; run more"):
        fit_knee(sweep(SGD, [16, 64]), SHAPES["sgd"])
    with pytest.raises(RequestError, match=r"at least 4 batch sizes with their best rate inside .*got 3;"):
        fit_knee(sweep(ADAMW, [16, 64, 256]), SHAPES["adamw"])
    edges = Sweep(tuple(run for run in made(SGD) if run.lr <= 0.05))
    with pytest.raises(RequestError, match=r"got 0, 7 more have it at an end of the rates tried; run more rates"):
        fit_knee(edges, SHAPES["sgd"])


def test_shapes_priors_and_batch_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RequestError, match=r"exponents must be two numbers, 0 <= low <= high, got 0.9 and 0.2"):
        Shape((0.9, 0.2), 4.0)
    with pytest.raises(RequestError, match=r"bend must be positive, got 0$"):
        Shape((0.2, 0.9), 0.0)
    with pytest.raises(RequestError, match=r"prior must have a positive finite batch_size and spread, got -1 and 0.3"):
        Prior(-1.0, 0.3)
    with pytest.raises(RequestError, match="batch_size must be positive and finite, got 0"):
        predict(fit_knee(sweep(SGD), SHAPES["sgd"]), 0.0)
