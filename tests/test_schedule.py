import math

import pytest

from rebatch.errors import RequestError
from rebatch.schedule import Constant, Cosine, Linear, MultiStep, PiecewiseLinear, Schedule, lr_factor

SCHEDULES: list[Schedule] = [
    Constant(),
    MultiStep(milestones=(0.2, 0.6), factor=0.1),
    Cosine(final=0.1),
    Linear(),
    PiecewiseLinear(points=((0.0, 1.0), (0.5, 1.0), (1.0, 0.0))),
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
    ],
)
def test_a_schedule_is_valid_from_birth(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(RequestError, match=message):
        make()
