"""The curve of the best rate: known answers, the group law, SGD's gain as a special case, and its doubt."""

import math
from itertools import product

import numpy as np
import pytest

from rebatch.errors import RequestError
from rebatch.knee import DOUBTS, Doubt, Knee, Known, expected_log_error, gain_knee, language_model_knee, rate_interval

KNEES = [
    Knee(batch_size=size, exponent=exponent, bend=bend)
    for size, exponent, bend in product((0.5, 100.0, 1e9, math.inf), (0.0, 0.5, 1.0), (1.0, 4.0, math.inf))
]


def slow_factor(knee: Knee, batch_size: float, new: float) -> float:
    """The formula as it is written down."""
    k, a, p = knee.batch_size, knee.exponent, knee.bend
    return float(((1 + (k / batch_size) ** p) / (1 + (k / new) ** p)) ** (a / p))


@pytest.mark.parametrize("knee", KNEES)
def test_two_moves_are_one_and_none_changes_nothing(knee: Knee) -> None:
    for first, second, third in product((1, 7, 130, 5e6), repeat=3):
        both = knee.factor(first, second) * knee.factor(second, third)
        assert both == pytest.approx(knee.factor(first, third), rel=1e-12)
        assert knee.factor(first, first) == 1.0


@pytest.mark.parametrize("knee", [knee for knee in KNEES if max(knee.batch_size, knee.bend) < 1e9])
def test_the_factor_is_the_formula(knee: Knee) -> None:
    for old, new in product((3, 50, 100, 7000), repeat=2):
        assert knee.factor(old, new) == pytest.approx(slow_factor(knee, old, new), rel=1e-10)


def test_for_sgd_it_is_the_gain() -> None:
    """AdaScale's gain (1 + nu) / (1 + nu/kappa) with nu = B_noise/B, which is lr_max / (1 + B_noise/B)."""
    knee = gain_knee(620.0)
    for old, new in product((2, 32, 620, 9000), repeat=2):
        nu, kappa = 620.0 / old, new / old
        assert knee.factor(old, new) == pytest.approx((1 + nu) / (1 + nu / kappa), rel=1e-12)


def test_the_limits_are_a_power_a_constant_and_a_hinge() -> None:
    knee = Knee(batch_size=1000.0, exponent=0.7, bend=4.0)
    assert knee.factor(1e-3, 2e-3) == pytest.approx(2**0.7, rel=1e-10)
    assert knee.factor(1e9, 2e9) == pytest.approx(1.0, rel=1e-10)
    hinge = Knee(batch_size=1000.0, exponent=0.7, bend=math.inf)
    assert hinge.factor(10, 4000) == pytest.approx((min(4000, 1000) / min(10, 1000)) ** 0.7, rel=1e-12)
    assert Knee(batch_size=1000.0, exponent=0.7, bend=1e4).factor(10, 4000) == pytest.approx(hinge.factor(10, 4000))
    assert Knee(batch_size=math.inf, exponent=0.5).factor(3, 12) == pytest.approx(2.0)


def test_numbers_beyond_floats_do_not_overflow() -> None:
    assert Knee(batch_size=1e300, exponent=1.0, bend=50.0).factor(1e-10, 1e-8) == pytest.approx(100.0)
    assert Knee(batch_size=1e-300, exponent=1.0, bend=50.0).factor(1, 1e10) == 1.0


def test_the_law_of_language_models_is_the_published_one_and_falls_with_their_size() -> None:
    assert language_model_knee(2e10).batch_size == pytest.approx(0.58 * 2e10**0.571)
    small, large = language_model_knee(2e10, 2e8), language_model_knee(2e10, 1e9)
    assert small.batch_size > large.batch_size
    assert language_model_knee(4e10, 2e8).batch_size > small.batch_size
    # Both laws within a factor of 2 of each other where both were fitted.
    assert 0.5 < language_model_knee(2e10, 4e8).batch_size / language_model_knee(2e10).batch_size < 2.0


def test_doubt_grows_with_the_distance_and_with_ignorance() -> None:
    for known in DOUBTS:
        assert expected_log_error(1.0, known) < expected_log_error(2.0, known) < expected_log_error(64.0, known)
        assert expected_log_error(1 / 8, known) == pytest.approx(expected_log_error(8.0, known))
    for kappa in (2.0, 16.0, 128.0):
        sweep, law, unknown = (expected_log_error(kappa, known) for known in ("sweep", "law", "unknown"))
        assert sweep <= law < unknown


@pytest.mark.parametrize("known", list(DOUBTS))
def test_the_interval_holds_its_level_of_normal_errors(known: Known) -> None:
    n, kappa = 20_000, 8.0
    errors = DOUBTS[known].deviation(kappa) * np.random.default_rng(0).standard_normal(n)
    for level in (0.5, 0.9):
        found = rate_interval(0.1, kappa, known, level)
        inside = ((found.low <= 0.1 * np.exp(errors)) & (0.1 * np.exp(errors) <= found.high)).sum()
        assert abs(inside - level * n) / math.sqrt(n * level * (1 - level)) < 4
        assert found.estimate == 0.1
    assert np.abs(errors).mean() == pytest.approx(expected_log_error(kappa, known), rel=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knee(batch_size=0.0, exponent=1.0), r"^knee.batch_size must be positive, got 0.0$"),
        (lambda: Knee(batch_size=math.nan, exponent=1.0), r"^knee.batch_size must be positive, got nan$"),
        (lambda: Knee(batch_size="x", exponent=1.0), r"^knee.batch_size must be a number, got 'x'$"),  # type: ignore[arg-type]
        (lambda: Knee(batch_size=1.0, exponent=-0.1), r"^knee.exponent must be at least 0 and finite, got -0.1$"),
        (lambda: Knee(batch_size=1.0, exponent=math.inf), r"^knee.exponent must be at least 0 and finite, got inf$"),
        (lambda: Knee(batch_size=1.0, exponent=1.0, bend=0.0), r"^knee.bend must be positive, got 0.0$"),
        (lambda: gain_knee(10.0).factor(0, 1), r"^batch_size must be positive and finite, got 0$"),
        (lambda: gain_knee(10.0).factor(1, math.inf), r"^batch_size must be positive and finite, got inf$"),
        (lambda: language_model_knee(-1.0), r"^tokens must be positive and finite, got -1.0$"),
        (lambda: language_model_knee(1e9, 0.0), r"^parameters must be positive and finite, got 0.0$"),
        (lambda: Doubt(0.1, 0.1).deviation(0.0), r"^kappa must be positive and finite, got 0.0$"),
        (lambda: rate_interval(0.0, 2.0, "law"), r"^lr must be positive and finite, got 0.0$"),
        (lambda: rate_interval(0.1, 2.0, "law", 90.0), r"^level must be between 0 and 1, got 90.0$"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make()  # type: ignore[operator]
