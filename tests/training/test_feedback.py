"""Schedules that listen to the run: drops where one would make them by hand, and the same after a resume."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from rebatch import build_optimizer, build_scheduler
from rebatch.errors import RequestError
from rebatch.measure import WeightDistance
from rebatch.recipe import Epochs
from rebatch.schedule import Constant, DistanceDrop, MultiStep, Plateau, lr_factor
from rebatch.training.feedback import Drops
from toy import RECIPE, assert_same_state, state_of, toy_model
from training.runs import by_hand, run, stopped_and_resumed

LONG = RECIPE.replace(ghost_batch_size=None, max_grad_norm=None, budget=Epochs(14))  # 42 steps


def replay(schedule: Plateau, values: list[float], *, every: int = 10, name: str = "validation_loss") -> list[int]:
    """The number of drops after each of the rows at steps `every`, 2 `every`, ... of 100."""
    drops, counts = Drops(schedule, 100, []), []
    for place, value in enumerate(values, 1):
        row = {"step": float(place * every), "validation_loss": 0.0, name: value}
        drops.after_row({"step": row["step"] - 1, "train_loss": -1e9})  # no evaluation: not read
        drops.after_row(row)
        counts.append(drops.before_step(place * every))
    return counts


@pytest.mark.parametrize("name", ["validation_loss", "train_loss", "validation_accuracy"])
def test_a_plateau_drops_after_its_patience_without_a_better_value(name: Any) -> None:
    # Best at 20; 20 steps later nothing better: drop. Better at 50, then 20 steps flat: drop. Twice is all.
    values = [5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.1, 3.0, 3.0, 3.0]
    expected = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    if name == "validation_accuracy":  # more is better
        values = [-value for value in values]
    schedule = Plateau(patience=0.2, drops=2, metric=name)
    assert replay(schedule, values, name=name) == expected


def test_patience_starts_again_at_a_drop_and_falls_on_the_step_that_people_count() -> None:
    assert replay(Plateau(patience=0.3, drops=3), [1.0] * 10) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    # In binary 0.07 * 100 is above 7, and 0.1 + 0.2 above 0.3.
    assert replay(Plateau(patience=0.07, drops=9), [1.0] * 5, every=7) == [0, 1, 2, 3, 4]
    assert replay(Plateau(patience=0.1 + 0.2, drops=9), [1.0] * 4) == [0, 0, 0, 1]


def test_a_value_that_is_no_number_is_no_improvement() -> None:
    assert replay(Plateau(patience=0.2, drops=3), [1.0, float("nan"), float("nan"), 0.5]) == [0, 0, 1, 1]


@pytest.mark.parametrize("metric", ["validation_loss", "validation_accuracy", "train_loss"])
def test_the_rate_of_a_run_drops_after_the_rows_at_which_its_plateau_is_over(metric: Any) -> None:
    schedule = Plateau(patience=0.1, factor=0.5, metric=metric, warmup=0.25)
    rows, _ = run(LONG.with_lr(1.0).replace(schedule=schedule), evaluations=14)
    best, since, drops = float("inf"), 0.0, 0
    for row, after in pairwise(rows):
        if "validation_loss" in row:
            value = -row[metric] if "accuracy" in metric else row[metric]
            if value < best:
                best, since = value, row["step"]
            elif row["step"] - since >= 4.2 and drops < 3:
                drops, since = drops + 1, row["step"]
        expected = 0.5**drops * min(1.0, (after["step"] - 1) / 42 / 0.25)
        assert after["lr"] == pytest.approx(expected, rel=1e-12)
    assert drops > 0


@pytest.mark.parametrize(
    ("distances", "latest", "expected"),
    [
        ((1.0, 1.95, 50.0), (0.9, 0.95, 1.0), None),
        ((50.0, 60.0), (25 / 42, 0.9), {25: 1, 38: 2}),  # never there: the step that `latest` names, and no later
    ],
)
def test_a_run_drops_where_a_hand_written_one_has_travelled_far_enough(
    distances: tuple[float, ...], latest: tuple[float, ...], expected: dict[int, int] | None
) -> None:
    schedule = DistanceDrop(distances=distances, latest=latest, factor=0.2)
    recipe = LONG.replace(schedule=schedule)
    model = toy_model()
    first = [weight.detach().clone() for weight in model.parameters()]
    drops, rates, dropped_at = 0, [], {}

    def drop(step: int, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        nonlocal drops
        before = drops
        changes = [now.detach() - then for now, then in zip(model.parameters(), first, strict=True)]
        moved = sum(float(change.square().sum()) for change in changes) ** 0.5
        while drops < len(distances) and (moved >= distances[drops] or step / 42 >= latest[drops]):
            drops += 1
        if drops > before:
            dropped_at[step] = drops
        optimizer.param_groups[0]["lr"] = 0.1 * 0.2**drops
        rates.append(0.1 * 0.2**drops)
        return optimizer

    by_hand(recipe, model, epochs=14, start=drop)
    rows, weights = run(recipe)
    assert_same_state(weights, state_of(model), rtol=1e-10)
    assert [row["lr"] for row in rows] == pytest.approx([rates[int(row["step"]) - 1] for row in rows], rel=1e-12)
    if expected is None:  # by distance, at two different readings, and the third never came
        assert list(dropped_at.values()) == [1, 2]
        assert max(dropped_at) < 0.9 * 42
    else:
        assert dropped_at == expected


def test_the_distance_is_the_one_that_is_measured() -> None:
    measured = run(LONG.replace(schedule=Constant()), observers=[WeightDistance()], evaluations=21)[0]
    goal = next(row["weight_distance"] for row in measured if row["step"] == 20)
    for factor, drops in ((1 - 1e-9, 1), (1 + 1e-9, 0)):
        schedule = DistanceDrop(distances=(goal * factor,), latest=(1.0,))
        rows, _ = run(LONG.replace(schedule=schedule), evaluations=42)
        assert next(row["lr"] for row in rows if row["step"] == 21) == pytest.approx(0.1 * 0.1**drops)


@pytest.mark.parametrize(("total", "read_at"), [(40, 1), (550, 5), (1_000, 10), (20_000, 10)])
def test_the_distance_is_read_often_enough_for_the_length_of_the_run(total: int, read_at: int) -> None:
    weight = torch.zeros(1)
    drops = Drops(DistanceDrop(distances=(1.0,), latest=(1.0,)), total, [weight])
    weight += 2.0
    assert next(step for step in range(1, 11) if drops.before_step(step)) == read_at


def test_a_drop_is_never_taken_back() -> None:
    weights = [torch.zeros(3)]
    drops = Drops(DistanceDrop(distances=(1.0, 2.0), latest=(0.9, 0.95)), 100, weights)
    counts = []
    for step, distance in enumerate([0.0, 1.5, 0.5, 0.0, 2.5, 0.0]):
        weights[0][0] = distance
        counts.append(drops.before_step(10 * step))
    assert counts == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("after", [3, 9, 14])
@pytest.mark.parametrize(
    "schedule",
    [
        Plateau(patience=0.05, factor=0.5, drops=9, warmup=0.1),
        DistanceDrop(distances=(0.5, 0.6, 0.7), latest=(0.9, 0.95, 1.0), factor=0.3, warmup=0.1),
    ],
    ids=["plateau", "distance"],
)
def test_a_run_with_a_listening_schedule_resumes_bit_for_bit(
    schedule: Plateau | DistanceDrop, after: int, tmp_path: Path
) -> None:
    recipe = LONG.replace(schedule=schedule).with_lr(0.5)
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)
    assert min(row["lr"] for row in rows[3:]) < 0.3  # it did drop


def test_the_state_of_a_plateau_is_all_that_a_resumed_run_needs() -> None:
    schedule, values = Plateau(patience=0.2, drops=3), [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    whole = Drops(schedule, 100, [])
    for place, value in enumerate(values):
        row = {"step": 10.0 * place, "validation_loss": value}
        again = Drops(schedule, 100, [])
        again.load_state_dict(whole.state_dict())
        whole.after_row(row)
        again.after_row(row)
        assert again.state_dict() == whole.state_dict()
    assert whole.count == 3


@pytest.mark.parametrize(
    "schedule", [Plateau(patience=0.2), DistanceDrop(distances=(1.0,), latest=(0.5,))], ids=["plateau", "distance_drop"]
)
def test_a_torch_scheduler_cannot_listen_and_says_so(schedule: Plateau | DistanceDrop) -> None:
    recipe = RECIPE.replace(schedule=schedule)
    kind = "plateau" if isinstance(schedule, Plateau) else "distance_drop"
    with pytest.raises(RequestError, match=rf"schedule.type '{kind}' listens to the run, .*; use rebatch.train, or"):
        build_scheduler(recipe, build_optimizer(recipe, toy_model()), examples=37)


def test_schedules_that_do_not_listen_never_drop() -> None:
    drops = Drops(MultiStep(milestones=(0.1,)), 100, [torch.zeros(3)])
    drops.after_row({"step": 100.0, "validation_loss": 5.0, "train_loss": 5.0, "validation_accuracy": 1.0})
    assert drops.before_step(100) == 0
    assert lr_factor(MultiStep(milestones=(0.1,)), 0.5, 7) == 0.1
