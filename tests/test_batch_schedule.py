"""Batches that change in size along a run: which examples each step sees, the laws of training, growth for decay."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import rebatch
from rebatch import build_optimizer, build_scheduler
from rebatch.batch_growth import grow_batch
from rebatch.batching import (
    batch_bounds,
    examples_seen,
    progress,
    step_sizes,
    steps_of_last_epoch,
    stretches,
    total_steps,
)
from rebatch.cli.main import run as command
from rebatch.errors import RequestError
from rebatch.price import cost, price
from rebatch.recipe import AdamW, Budget, Defects, Epochs, Examples, Recipe, Sgd, Steps
from rebatch.recipe_file import dumps_recipe, loads_recipe, read_recipe, write_recipe
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import (
    Constant,
    Cosine,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Plateau,
    Schedule,
    lr_factor,
)
from rebatch.study.branch import branch_off
from rebatch.tasks import TASKS
from rebatch.transfer import transfer
from toy import RECIPE, assert_same_state, toy_model, toy_splits
from training.runs import assert_same_rows, run, stopped_and_resumed

GROWS = RECIPE.replace(batch_size=5, ghost_batch_size=None, batch_schedule=((0.3, 1.4), (0.7, 3.2)), budget=Epochs(3))
SWITCH = GROWS.replace(batch_size=16, batch_schedule=((0.5, 0.25),))  # large first


def walked(recipe: Recipe, examples: int) -> list[tuple[int, int, int]]:
    """The slow twin: one step after the other, the batch size read from the examples that came before."""
    found: list[tuple[int, int, int]] = []
    epoch = start = seen = 0
    while True:
        budget = recipe.budget
        at = (epoch + start / examples) / budget.epochs if isinstance(budget, Epochs) else seen / budget.examples  # type: ignore[union-attr]
        if at >= 1 - 1e-12:
            return found
        size = recipe.batch_size
        for change, factor in recipe.batch_schedule:
            if at >= change - 1e-12:
                size = round(recipe.batch_size * factor)
        if recipe.last_batch == "drop" and examples - start < size:
            epoch, start = epoch + 1, 0
            continue
        stop = min(start + size, examples)
        found.append((epoch, start, stop))
        seen += stop - start
        epoch, start = (epoch + 1, 0) if stop == examples else (epoch, stop)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
@pytest.mark.parametrize("budget", [Epochs(3), Epochs(2.6), Examples(130), Examples(7)])
@pytest.mark.parametrize("recipe", [GROWS, SWITCH], ids=["grows", "shrinks"])
@pytest.mark.parametrize("examples", [37, 35, 23])
def test_steps_see_what_a_walk_through_the_epochs_says(
    recipe: Recipe, budget: Budget, last_batch: str, examples: int
) -> None:
    recipe = recipe.replace(budget=budget, last_batch=last_batch)
    expected = walked(recipe, examples)
    found = [batch_bounds(step, examples, recipe) for step in range(total_steps(recipe, examples))]
    assert found == expected
    counts = [stop - start for _, start, stop in expected]
    assert [examples_seen(step, examples, recipe) for step in range(len(found) + 1)] == [
        sum(counts[:step]) for step in range(len(found) + 1)
    ]
    assert step_sizes(recipe, examples) == set(counts)
    assert steps_of_last_epoch(recipe, examples) == sum(epoch == expected[-1][0] for epoch, _, _ in expected)
    assert cost(recipe, examples).examples == sum(counts)
    passed = [progress(step, examples, recipe) for step in range(len(found) + 1)]
    assert passed[0] == 0.0
    assert passed[-1] == 1.0
    assert all(a < b for a, b in pairwise(passed))


@pytest.mark.parametrize("budget", [Epochs(3), Examples(111)])
@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_a_factor_of_one_changes_nothing(budget: Budget, last_batch: str) -> None:
    plain = GROWS.replace(batch_schedule=(), budget=budget, last_batch=last_batch)
    same = plain.replace(batch_schedule=((0.4, 1.0),))
    if isinstance(budget, Epochs):
        assert total_steps(same, 37) == total_steps(plain, 37)
    steps = min(total_steps(same, 37), total_steps(plain, 37))
    assert [batch_bounds(step, 37, same) for step in range(steps)] == [
        batch_bounds(step, 37, plain) for step in range(steps)
    ]


@pytest.mark.parametrize("micro_batch_size", [1, 3, 7])
@pytest.mark.parametrize("recipe", [GROWS, SWITCH], ids=["grows", "shrinks"])
def test_micro_batch_size_does_not_change_a_run_whose_batch_changes(recipe: Recipe, micro_batch_size: int) -> None:
    whole = run(recipe, toy_model(norm=False))
    rows, weights = run(recipe, toy_model(norm=False), micro_batch_size=micro_batch_size)
    assert_same_rows(rows, whole[0], rtol=1e-10)
    assert_same_state(weights, whole[1], rtol=1e-10)


@pytest.mark.parametrize("after", [1, 4])
def test_a_run_whose_batch_grows_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    ghosts = GROWS.replace(
        batch_size=8, ghost_batch_size=4, batch_schedule=((0.3, 1.5), (0.7, 2.0)), last_batch="drop", budget=Epochs(6)
    )
    whole = run(ghosts)
    rows, weights = stopped_and_resumed(ghosts, tmp_path, after=after)
    assert_same_rows(rows, whole[0])
    assert_same_state(weights, whole[1])


def test_the_rate_follows_the_examples_in_the_loop_and_in_torch_s_scheduler() -> None:
    recipe = GROWS.replace(schedule=MultiStep(milestones=(0.7,), factor=0.1))
    rows, _ = run(recipe, toy_model(norm=False), evaluations=100)
    sizes = [size for each in stretches(recipe, 37) for size in [each.batch_size] * each.steps]
    large = [0.1 * (0.1 if size == 16 else 1.0) for size in sizes]  # the batch grows where the rate falls
    assert [row["lr"] for row in rows] == pytest.approx(large)
    optimizer = build_optimizer(recipe, toy_model(norm=False))
    scheduler = build_scheduler(recipe, optimizer, examples=37)
    rates = []
    for _ in sizes:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(large)
    later = build_scheduler(recipe, build_optimizer(recipe, toy_model(norm=False)), examples=37, progress=0.7)
    assert later.get_last_lr() == pytest.approx([0.01])
    with pytest.raises(RequestError, match="goes with a batch_schedule, and an optimizer has one batch size"):
        rebatch.recipe_of(optimizer, batch_size=5, budget=Epochs(3), scheduler=scheduler, examples=37)


def test_a_transfer_multiplies_every_batch_and_same_steps_stay_the_same_steps() -> None:
    recipe = Recipe(
        batch_size=32, optimizer=Sgd(lr=0.1), budget=Epochs(10), batch_schedule=((0.5, 4.0),), ghost_batch_size=16
    )
    moved = transfer(recipe, batch_size=64, rules="linear", examples=10_240).recipe
    assert (moved.batch_sizes, moved.budget, moved.ghost_batch_size) == ((64, 256), Epochs(10), 16)
    longer = transfer(recipe, batch_size=64, rules="same_steps", examples=10_240)
    assert longer.recipe.budget == Epochs(20)
    assert longer.price.steps_factor == 1.0
    assert transfer(moved, batch_size=32, rules="linear", examples=10_240).recipe == recipe
    with pytest.raises(RequestError, match="batch_size 16384 is larger than the training set of 10240"):
        transfer(recipe, batch_size=4096, rules="linear", examples=10_240)
    shrinks = recipe.replace(batch_schedule=((0.5, 0.5),), ghost_batch_size=16)
    assert transfer(shrinks, batch_size=16, rules="linear").recipe.ghost_batch_size == 8
    ghosts = transfer(shrinks.replace(ghost_batch_size=None), batch_size=128, rules="ghost_batch").recipe
    assert ghosts.ghost_batch_size == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_schedule": ((0.0, 2.0),)}, "progress over 0, under 1 and rising"),
        ({"batch_schedule": ((0.5, 2.0), (0.5, 3.0))}, "progress over 0, under 1 and rising"),
        ({"batch_schedule": ((0.5, math.inf),)}, "positive finite factors"),
        ({"batch_schedule": ((0.5, 0.01),)}, "batches of 1 or more"),
        ({"batch_schedule": ((0.5, 2.0),), "budget": Steps(10)}, "with a budget in epochs or examples"),
        (
            {"batch_schedule": ((0.5, 0.5),), "ghost_batch_size": 4},
            "ghost_batch_size must be between 2 and",
        ),
        (
            {"batch_schedule": ((0.5, 2.0),), "ghost_batch_size": 4, "defects": Defects(ghost_split="chunks")},
            "without defects.ghost_split",
        ),
    ],
)
def test_what_a_batch_schedule_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        GROWS.replace(batch_schedule=()).replace(**changes)


def test_a_batch_schedule_survives_its_file() -> None:
    assert loads_recipe(dumps_recipe(GROWS)) == GROWS
    assert "batch_schedule = [" in dumps_recipe(GROWS)


TUNED = Recipe(
    batch_size=64,
    optimizer=Sgd(lr=0.1, momentum=0.9),
    budget=Epochs(20),
    schedule=MultiStep(milestones=(0.5, 0.75), factor=0.25),
)


@pytest.mark.parametrize(
    "schedule",
    [TUNED.schedule, PiecewiseConstant(points=((0.2, 0.5), (0.6, 0.125))), Cosine(warmup=0.1), Linear()],
    ids=["multistep", "piecewise", "cosine", "linear"],
)
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1, momentum=0.9), AdamW(lr=0.1)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("most", [128, 500, 100_000])
def test_growth_keeps_the_noise_of_the_decay(schedule: Schedule, optimizer: Sgd | AdamW, most: int) -> None:
    """SGD: lr/B as before at every progress. Others: lr^2/B falls as f^2 / g did: rate f sqrt(g)."""
    tuned = TUNED.replace(schedule=schedule, optimizer=optimizer)
    grown = grow_batch(tuned, most=most)
    assert max(grown.batch_sizes) <= most
    power = 1.0 if isinstance(optimizer, Sgd) else 0.5
    for at in (0.0, 0.05, 0.15, 0.3, 0.56, 0.61, 0.72, 0.8, 0.9, 0.99):
        growth = next((f for start, f in reversed(grown.batch_schedule) if at >= start), 1.0)
        before, after = lr_factor(tuned.schedule, at), lr_factor(grown.schedule, at)
        assert after == pytest.approx(before * growth**power, rel=0.02, abs=1e-3)


def test_growth_saves_steps_and_keeps_the_examples() -> None:
    grown = grow_batch(TUNED, most=1024)
    assert grown.batch_sizes == (64, 256, 1024)
    assert grown.schedule == Constant()
    before, after = (cost(each, 10_240) for each in (TUNED, grown))
    assert before.examples == after.examples
    assert after.steps == 10 * 160 + 5 * 40 + 5 * 10
    assert grow_batch(TUNED.replace(budget=Steps(100)), most=128).budget == Examples(6400)


@pytest.mark.parametrize(
    ("recipe", "most", "message"),
    [
        (TUNED, 64, "most must be above batch_size 64, got 64"),
        (TUNED.replace(schedule=Constant()), 128, "schedule.type 'constant' does not fall"),
        (TUNED.replace(schedule=Plateau(patience=0.1)), 128, "a function of progress, got 'plateau'"),
        (TUNED.replace(schedule=PiecewiseConstant(points=((0.5, 4.0),))), 128, "'piecewise_constant' does not fall"),
        (TUNED.replace(batch_schedule=((0.5, 2.0),)), 128, "its batch grows already"),
        (TUNED.replace(loss_reduction="sum"), 128, "a summed gradient grows with the batch"),
        (TUNED.replace(schedule=Cosine()), 100, "none fits between 64 and 100; allow 128 or more"),
    ],
)
def test_what_cannot_grow_is_told(recipe: Recipe, most: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        grow_batch(recipe, most=most)


def test_a_rate_that_rises_first_grows_the_batch_from_its_peak_on() -> None:
    """Warm-up, stable, decay, as points; and a triangle whose first half stays."""
    stable = PiecewiseLinear(points=((0.0, 0.0), (0.1, 1.0), (0.8, 1.0), (1.0, 0.0)))
    grown = grow_batch(TUNED.replace(schedule=stable), most=256)
    assert grown.batch_sizes == (64, 128, 256)
    assert [start for start, _ in grown.batch_schedule] == pytest.approx([0.9, 0.95])
    triangle = PiecewiseLinear(points=((0.0, 0.2), (0.3, 1.0), (1.0, 0.0)))
    grown = grow_batch(TUNED.replace(schedule=triangle), most=512)
    assert grown.batch_sizes == (64, 128, 256, 512)
    assert lr_factor(grown.schedule, 0.15) == pytest.approx(0.6)


def test_what_is_about_one_batch_size_refuses_several() -> None:
    with pytest.raises(RequestError, match="has no twin with the other loss_reduction"):
        with_loss_reduction(GROWS, "sum")
    with pytest.raises(RequestError, match="with a schedule that is a function of progress"):
        GROWS.replace(schedule=Plateau(patience=0.1))
    with pytest.raises(RequestError, match="a critical batch size is about one batch size, and batch_schedule has"):
        branch_off(toy_model(), toy_splits(), GROWS, at=0.0, seeds=1)


def test_without_n_the_steps_of_a_growing_batch_are_counted_too() -> None:
    assert price(TUNED, grow_batch(TUNED, most=1024), None).steps_factor == pytest.approx(1850 / 3200)


def test_the_command_grows_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(TUNED, tmp_path / "tuned.toml")
    options = ["--batch-size", "128", "--grow-to", "512", "--examples", "10240", "--output", str(tmp_path / "new.toml")]
    assert command(["transfer", str(tmp_path / "tuned.toml"), *options]) == 0
    grown = read_recipe(tmp_path / "new.toml")
    assert grown.batch_sizes == (128, 512)
    assert grown.tuned is None
    out = capsys.readouterr().out
    assert "note: the batch grows from 128 to 512 where the learning rate fell" in out
    assert "steps     3,200    1,000" in out
    assert "batch_schedule" in out.partition("price")[0]


def test_torch_is_not_seeded_by_any_of_this() -> None:
    state = torch.get_rng_state()
    total_steps(GROWS, 37)
    assert torch.equal(state, torch.get_rng_state())


def test_a_cut_of_the_larger_batches_is_another_run(tmp_path: Path) -> None:
    """Plain batch norm sees pieces where a later batch is cut, though the first one is not."""
    recipe = TASKS["digits/mlp"].recipe.replace(
        batch_size=16, budget=Epochs(0.2), schedule=Constant(), batch_schedule=((0.5, 8.0),)
    )
    write_recipe(recipe, tmp_path / "grows.toml")
    store, cut = ["--store", str(tmp_path / "store")], ["--micro-batch-size", "16", "--allow-batch-norm"]
    for options in ([], cut):
        call = ["train", str(tmp_path / "grows.toml"), "--task", "digits/mlp", "--threads", "1", *store, *options]
        assert command(call) == 0
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 2
