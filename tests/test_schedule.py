import math
from collections.abc import Callable

import pytest

from rebatch.errors import RequestError
from rebatch.schedule import (
    Constant,
    Cosine,
    DistanceDrop,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Plateau,
    Schedule,
    lr_factor,
)

SCHEDULES: list[Schedule] = [
    Constant(),
    MultiStep(milestones=(0.2, 0.6), factor=0.1),
    Cosine(final=0.1),
    Linear(),
    PiecewiseLinear(points=((0.0, 1.0), (0.5, 1.0), (1.0, 0.0))),
    PiecewiseConstant(points=((0.3, 10.0), (0.6, 1.0), (0.9, 0.1))),  # C1 and C3 of the paper rise tenfold at 60 of 200
    Plateau(patience=0.1),
    DistanceDrop(distances=(1.0, 2.0), latest=(0.5, 0.75)),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_starts_at_the_base_rate(schedule: Schedule) -> None:
    assert lr_factor(schedule, 0.0) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [7, 50, 391])
def test_a_stretched_budget_stretches_the_schedule(schedule: Schedule, steps: int) -> None:
    short = [lr_factor(schedule, i / steps) for i in range(steps)]
    long = [lr_factor(schedule, 3 * i / (3 * steps)) for i in range(steps)]
    assert short == long


@pytest.mark.parametrize("epochs", range(10, 200, 7))
def test_milestones_fall_on_the_step_that_people_count(epochs: int) -> None:
    # The paper drops at epoch 10, 20, 30 of 50; fractions such as 0.2 and 0.6 are not exact in binary.
    schedule = MultiStep(milestones=(0.2, 0.4, 0.6), factor=0.1)
    steps = 5 * epochs
    drops = [i for i in range(1, steps) if lr_factor(schedule, i / steps) != lr_factor(schedule, (i - 1) / steps)]
    assert drops == [epochs, 2 * epochs, 3 * epochs]


def test_cosine_is_halfway_in_the_middle_of_what_follows_the_warm_up() -> None:
    assert lr_factor(Cosine(warmup=0.2), 0.6) == pytest.approx(0.5, abs=1e-12)
    assert lr_factor(Cosine(final=0.2), 1.0) == pytest.approx(0.2, abs=1e-12)
    quarter = 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2
    assert lr_factor(Cosine(final=0.2), 0.25) == pytest.approx(quarter, abs=1e-12)


@pytest.mark.parametrize("kind", [Constant, Cosine, Linear])
def test_warm_up_is_a_line_from_zero_to_the_base_rate(kind: type[Constant]) -> None:
    schedule = kind(warmup=0.25)
    assert [lr_factor(schedule, p) for p in (0.0, 0.125, 0.25)] == pytest.approx([0.0, 0.5, 1.0], abs=1e-12)


@pytest.mark.parametrize("epochs", range(10, 200, 7))
def test_piecewise_constant_changes_on_the_step_that_people_count(epochs: int) -> None:
    # WRN16-4 of the paper: .1; .02 at 60; .004 at 120; 1e-4 at 140 (of 200).
    schedule = PiecewiseConstant(points=((0.3, 0.2), (0.6, 0.04), (0.7, 1e-3)))
    found = [lr_factor(schedule, i / (10 * epochs)) for i in range(10 * epochs)]
    assert found == [1.0] * 3 * epochs + [0.2] * 3 * epochs + [0.04] * epochs + [1e-3] * 3 * epochs
    assert lr_factor(schedule, 1.0) == 1e-3
    assert lr_factor(PiecewiseConstant(points=((0.0, 0.5),)), 0.0) == 0.5
    assert lr_factor(PiecewiseConstant(points=((0.1 + 0.2, 0.5),)), 0.3) == 0.5  # 0.1 + 0.2 is above 0.3 in binary


@pytest.mark.parametrize(
    "schedule", [Plateau(patience=0.1, factor=0.2), DistanceDrop(distances=(1.0,), latest=(1.0,), factor=0.2)]
)
def test_a_schedule_that_listens_multiplies_by_its_factor_at_each_drop(schedule: Schedule) -> None:
    for drops, factor in enumerate((1.0, 0.2, 0.04, 0.008)):
        assert [lr_factor(schedule, p, drops) for p in (0.0, 0.5, 1.0)] == pytest.approx([factor] * 3, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda warmup: PiecewiseConstant(points=((0.125, 0.5),), warmup=warmup),
        lambda warmup: Plateau(patience=0.1, factor=0.5, warmup=warmup),
        lambda warmup: DistanceDrop(distances=(1.0,), latest=(1.0,), factor=0.5, warmup=warmup),
    ],
    ids=["piecewise constant", "plateau", "distance"],
)
def test_warm_up_multiplies_the_curve(make: Callable[[float], Schedule]) -> None:
    plain, warmed = make(0.0), make(0.25)
    for progress in (0.0, 0.0625, 0.125, 0.2, 0.25, 0.5):
        for drops in (0, 1):
            expected = min(1.0, progress / 0.25) * lr_factor(plain, progress, drops)
            assert lr_factor(warmed, progress, drops) == pytest.approx(expected, rel=1e-12)


def test_piecewise_linear_goes_through_its_points_and_is_flat_outside() -> None:
    page = PiecewiseLinear(points=((0.1, 0.0), (3 / 7, 1.0), (6 / 7, 0.05)))
    assert [lr_factor(page, p) for p in (0.0, 0.1, 3 / 7, 6 / 7, 1.0)] == pytest.approx([0, 0, 1, 0.05, 0.05])
    assert lr_factor(page, (0.1 + 3 / 7) / 2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(warmup=1.0), "schedule.warmup is a fraction of the budget"),
        (lambda: Linear(warmup="x"), "schedule.warmup must be a number, got 'x'"),  # type: ignore[arg-type]
        (lambda: MultiStep(milestones=()), "schedule.milestones needs at least one, got"),
        (lambda: PiecewiseLinear(points=((0.0, 1.0, 2.0),)), r"schedule.points\[0\] must be two numbers"),  # type: ignore[arg-type]
        (lambda: MultiStep(milestones=(0.5, 0.5)), "schedule.milestones must rise"),
        (lambda: MultiStep(milestones=(0.5,), factor=math.nan), "schedule.factor must be at least 0 and finite"),
        (lambda: Cosine(final=-0.1), "schedule.final must be at least 0"),
        (lambda: PiecewiseLinear(points=()), "at least one"),
        (lambda: PiecewiseLinear(points=((0.0, math.inf),)), "schedule.points must be at least 0 and finite"),
        (lambda: PiecewiseConstant(points=()), "schedule.points needs at least one"),
        (lambda: PiecewiseConstant(points=((0.5, 1.0), (0.2, 2.0))), "schedule.points must rise, got"),
        (lambda: PiecewiseConstant(points=((1.5, 1.0),)), "schedule.points are fractions of the budget"),
        (lambda: PiecewiseConstant(points=((0.5, -1.0),)), "schedule.points must be at least 0"),
        (lambda: Plateau(patience=0.0), "schedule.patience is a fraction of the budget, 0 < patience < 1, got 0.0"),
        (lambda: Plateau(patience=math.nan), "schedule.patience is a fraction"),
        (lambda: Plateau(patience=0.1, drops=0), "schedule.drops must be at least 1, got 0; for none use"),
        (lambda: Plateau(patience=0.1, factor=math.inf), "schedule.factor must be at least 0 and finite"),
        (lambda: Plateau(patience=0.1, metric="loss"), "schedule.metric must be 'validation_loss', "),  # type: ignore[arg-type]
        (lambda: DistanceDrop(distances=(), latest=()), "equally many, at least one, got 0 and 0"),
        (lambda: DistanceDrop(distances=(1.0,), latest=(0.5, 0.6)), "equally many, at least one, got 1 and 2"),
        (lambda: DistanceDrop(distances=(2.0, 1.0), latest=(0.5, 0.6)), "schedule.distances must rise"),
        (lambda: DistanceDrop(distances=(0.0,), latest=(0.5,)), "schedule.distances must be positive and finite"),
        (lambda: DistanceDrop(distances=(math.nan,), latest=(0.5,)), "schedule.distances must be positive and finite"),
        (lambda: DistanceDrop(distances=(1.0, 2.0), latest=(0.6, 0.5)), "schedule.latest must rise"),
        (lambda: DistanceDrop(distances=(1.0,), latest=(1.5,)), "schedule.latest are fractions of the budget"),
    ],
)
def test_a_schedule_is_valid_from_birth(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(RequestError, match=message):
        make()
