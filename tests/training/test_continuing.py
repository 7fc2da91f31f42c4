"""Runs that go on from another's checkpoint at another batch size: the same examples, by the new recipe from there."""

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rebatch import apply_recipe, build_optimizer, carry_over, draws, transfer
from rebatch.averaging import Averaging, Ema, Lookahead
from rebatch.batching import (
    Place,
    batch_bounds,
    examples_seen,
    place,
    progress,
    row_steps,
    step_sizes,
    total_steps,
)
from rebatch.errors import RequestError
from rebatch.measure import WeightDistance
from rebatch.optimizers import set_lr
from rebatch.recipe import AdamW, Budget, Epochs, Examples, Lamb, Lars, Lion, Muon, Optimizer, Recipe, Sgd, Steps
from rebatch.schedule import MultiStep, Plateau, lr_factor
from rebatch.training import Checkpointer, EarlierRun, Row, train
from rebatch.training.averaging import WeightAverage
from rebatch.training.continuing import beginning, carried_state
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import Outcome, run

PLAIN = RECIPE.replace(ghost_batch_size=None)
ADAMW = AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-4)
N = len(toy_splits().train)


def stopped(recipe: Recipe, path: Path, *, steps: int, **options: Any) -> tuple[EarlierRun, list[Row]]:
    """A run that was killed after `steps` steps, all of them saved, and its rows."""
    kept: list[Row] = []
    settings: dict[str, Any] = {"seed": 1, "execution": FLOAT64, "evaluations": 37, **options}
    checkpoint = Checkpointer(path, seconds=0.0)
    for row in train(toy_model(), toy_splits(), recipe, checkpoint=checkpoint, **settings):
        if row["step"] > steps:  # what was saved after the last row that is kept
            break
        kept.append(row)
    assert Checkpointer(path).steps() == kept[-1]["step"] == steps
    return EarlierRun(recipe, path), kept


SAME = {
    "partial batches": RECIPE,
    "adamw, examples, drop": RECIPE.replace(optimizer=ADAMW, last_batch="drop", budget=Examples(150)),
    "moving average": RECIPE.replace(averaging=Ema(decay=0.9, every=2)),
    "lookahead": RECIPE.replace(averaging=Lookahead(decay=0.8, every=3)),
    "momentum as in Page's code": PLAIN.replace(
        optimizer=Sgd(lr=0.1, momentum=0.9, lr_in_buffer=True), clip_steps=5, budget=Steps(9)
    ),
    "a batch that grows": PLAIN.replace(batch_size=8, batch_schedule=((0.3, 1.5), (0.6, 2.0)), last_batch="drop"),
}


@pytest.mark.parametrize("steps", [2, 4, 6])
@pytest.mark.parametrize("name", SAME)
def test_going_on_by_the_same_recipe_is_the_run_that_nobody_stopped(name: str, steps: int, tmp_path: Path) -> None:
    recipe, options = SAME[name], dict[str, Any](evaluations=37)
    rows, weights = run(recipe, observers=[WeightDistance()], **options)
    earlier, kept = stopped(recipe, tmp_path / "checkpoint.pt", steps=steps, observers=[WeightDistance()])
    rest, found = run(recipe, start_from=earlier, observers=[WeightDistance()], **options)
    assert kept + rest == rows
    assert_same_state(found, weights)


def by_hand(before: Recipe, after: Recipe, *, steps: int, rest: list[list[int]]) -> Outcome:
    """The slow twin: `steps` steps of `before`, then `after` in batches of these sizes by epoch; no clipping."""
    model, data, losses = toy_model(), toy_splits().train, []
    optimizer = build_optimizer(before, model)
    old = [[16, 16, 5]] * 3
    plan = [(epoch, size, before) for epoch in range(3) for size in old[epoch]][:steps]
    plan += [(epoch, size, after) for epoch, sizes in enumerate(rest) for size in sizes]
    taken = 0
    for step, (epoch, size, recipe) in enumerate(plan):
        if step == steps:
            carry_over(optimizer, before, after)
            apply_recipe(after, optimizer)
        offset = taken % N
        set_lr(optimizer, recipe.optimizer.lr * lr_factor(recipe.schedule, taken / N / 3))
        chosen = torch.from_numpy(draws.order(1, epoch, N))[offset : offset + size]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.inputs[chosen]), data.targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(
            {"train_loss": loss.item(), "lr": recipe.optimizer.lr * lr_factor(recipe.schedule, taken / N / 3)}
        )
        taken += size
    return losses, state_of(model)


OPTIMIZERS = {
    "sgd": Sgd(lr=0.1, momentum=0.9, weight_decay=1e-3),
    "page": Sgd(lr=0.1, momentum=0.9, lr_in_buffer=True),
    "adamw": ADAMW,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_at_another_batch_size_is_what_one_would_write_by_hand(name: str, tmp_path: Path) -> None:
    """From batch 16 to 7, a step into the second epoch, its 21 last examples cut anew; the rate drops at half time."""
    schedule = MultiStep(milestones=(0.5,), factor=0.1)
    before = PLAIN.replace(optimizer=OPTIMIZERS[name], schedule=schedule, max_grad_norm=None)
    rules = ["sqrt_lr", "beta2_half_life"] if name == "adamw" else ["linear_lr"]
    after = transfer(before, batch_size=7, rules=rules).recipe
    earlier, kept = stopped(before, tmp_path / "checkpoint.pt", steps=4)
    rest, weights = run(after, start_from=earlier, evaluations=1000)
    found = kept + rest
    cut = [[], [7, 7, 7], [7, 7, 7, 7, 7, 2]]
    losses, expected = by_hand(before, after, steps=4, rest=cut)
    assert [row["step"] for row in found] == list(range(1, len(losses) + 1))
    assert [row["examples"] for row in found][3:] == [53, 60, 67, 74, 81, 88, 95, 102, 109, 111]
    for row, loss in zip(found, losses, strict=True):
        assert row["lr"] == pytest.approx(loss["lr"], rel=1e-12)
        assert row["train_loss"] == pytest.approx(loss["train_loss"], rel=1e-10)
    assert_same_state(weights, expected, rtol=1e-10)


@pytest.mark.parametrize("averaging", [None, Ema(decay=0.9, every=2)], ids=["plain", "average"])
def test_a_run_that_goes_on_resumes_bit_for_bit(averaging: Averaging | None, tmp_path: Path) -> None:
    earlier, _ = stopped(RECIPE.replace(averaging=averaging), tmp_path / "earlier.pt", steps=4)
    faster = None if averaging is None else Ema(decay=0.8, every=2)
    after = RECIPE.replace(batch_size=8, averaging=faster, optimizer=Sgd(lr=0.05, momentum=0.9))
    rows, weights = run(after, start_from=earlier, evaluations=37)
    path = tmp_path / "own.pt"
    options: dict[str, Any] = {"seed": 1, "execution": FLOAT64, "evaluations": 37, "start_from": earlier}
    going = train(toy_model(), toy_splits(), after, **options, checkpoint=Checkpointer(path, seconds=0.0))
    *first, _ = islice(going, 4)
    going.close()  # type: ignore[attr-defined]
    earlier.checkpoint.unlink()  # its own state is all that it needs
    rest, resumed = run(after, start_from=earlier, evaluations=37, checkpoint=Checkpointer(path, seconds=1e9))
    assert first + rest == rows
    assert_same_state(resumed, weights)


def walked(recipe: Recipe, at: Place) -> list[tuple[int, int, int]]:
    """The rest of a run from `at` on, batch by batch, to the end of its epochs."""
    found, epoch, start = [], at.epoch, at.offset
    budget = recipe.budget
    assert isinstance(budget, Epochs)
    while epoch < budget.epochs:
        stop = min(start + recipe.batch_size, N)
        if stop - start == recipe.batch_size or recipe.last_batch == "keep":
            found.append((epoch, start, stop))
        epoch, start = (epoch, stop) if stop < N else (epoch + 1, 0)
    return found


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
@pytest.mark.parametrize("batch_size", [1, 5, 7, 16, 31, 37])
@pytest.mark.parametrize("step", range(9))
def test_the_rest_of_the_epoch_is_cut_into_new_batches_and_the_epochs_after_it_as_ever(
    batch_size: int, last_batch: Any, step: int
) -> None:
    before = RECIPE.replace(budget=Epochs(4), last_batch=last_batch)
    at = place(step, N, before)
    after = before.replace(batch_size=batch_size, ghost_batch_size=None)
    steps = range(step, total_steps(after, N, at))
    bounds = [batch_bounds(each, N, after, at) for each in steps]
    assert bounds == walked(after, at)
    sizes = [stop - start for _, start, stop in bounds]
    seen = [examples_seen(each, N, after, at) for each in [*steps, steps.stop]]
    assert [b - a for a, b in pairwise(seen)] == sizes
    assert seen[0] == at.seen
    assert set(sizes) <= step_sizes(after, N, at)
    # Where an epoch starts, as much of the budget is gone as ever, so milestones fall where they always fell.
    passed = [progress(each, N, after, at) for each in [*steps, steps.stop]]
    assert all(a < b for a, b in pairwise(passed))
    assert passed[-1] == pytest.approx(1.0, abs=1e-12)
    for (epoch, start, _), share in zip(bounds, passed, strict=False):
        if start == 0:
            assert share == pytest.approx(epoch / 4, abs=1e-12)


@pytest.mark.parametrize("budget", [Examples(1000), Steps(100)])
@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_a_budget_in_examples_or_steps_is_spent_by_examples(budget: Budget, last_batch: Any) -> None:
    """Epochs of the old run dropped 5 examples each, those of the new one 7."""
    before = RECIPE.replace(budget=budget, last_batch=last_batch, ghost_batch_size=None, batch_size=16)
    after = before.replace(batch_size=10, budget=Steps(160) if isinstance(budget, Steps) else budget)
    at = place(31, N, before)
    whole = examples_seen(total_steps(after, N), N, after)
    seen = examples_seen(total_steps(after, N, at), N, after, at)
    assert abs(seen - whole) <= 2 * after.batch_size


def test_rows_are_where_a_run_at_the_new_batch_size_has_them() -> None:
    before = RECIPE.replace(batch_size=2, ghost_batch_size=None, budget=Epochs(10))
    after = before.replace(batch_size=16)
    at = place(19 * 5, N, before)  # half of the epochs
    _, even = row_steps(after, N, 10, at)
    _, alone = row_steps(after, N, 10)
    assert [examples_seen(step, N, after, at) for step in even] == [
        examples_seen(step, N, after) for step in alone if step > 15
    ]
    assert row_steps(after, N, 10, at)[0][-1] == even[-1] == total_steps(after, N, at)


@pytest.mark.parametrize("every", [1, 3])
def test_a_moving_average_goes_on_with_the_weight_that_it_had(every: int) -> None:
    """Weights 0 for 10 steps, then 1: what is left of the zeros is what decay and decay' leave of them."""
    model = nn.Linear(1, 1, bias=False)
    before, after = Ema(decay=0.9), Ema(decay=0.9**4, every=every)
    earlier = WeightAverage(before, lambda _: 0.0, model)
    nn.init.zeros_(model.weight)
    for step in range(1, 11):
        earlier.after_step(step)
    average = WeightAverage(after, lambda _: 0.0, model)
    average.carry(earlier.state_dict(), before, 10)
    nn.init.ones_(model.weight)
    taken = 0
    for step in range(11, 20):
        average.after_step(step)
        taken += step % every == 0
    left, new = 1 - 0.9**10, 1 - 0.9 ** (4 * every * taken)
    with average.in_place():
        assert model.weight.item() == pytest.approx(new / (new + left * 0.9 ** (4 * every * taken)), rel=1e-6)


@pytest.mark.parametrize("averaging", [Ema(decay=0.9), Lookahead(decay=1 - 1e-9, every=1, power=0.0)])
def test_an_average_that_the_earlier_run_did_not_keep_begins_at_the_switch(averaging: Any, tmp_path: Path) -> None:
    """Rates of nothing: the weights stay those of the switch, and so does what is averaged from there on."""
    earlier, _ = stopped(PLAIN, tmp_path / "checkpoint.pt", steps=3)
    saved = Checkpointer(earlier.checkpoint).load()
    assert saved is not None
    still = Sgd(lr=1e-12) if isinstance(averaging, Ema) else PLAIN.optimizer
    _, found = run(PLAIN.replace(batch_size=7, averaging=averaging, optimizer=still), start_from=earlier)
    for name in ("0.weight", "4.weight"):
        torch.testing.assert_close(found[name], saved["model"][name], rtol=1e-6, atol=1e-6)


def test_a_run_may_change_its_batch_twice(tmp_path: Path) -> None:
    first, _ = stopped(PLAIN, tmp_path / "first.pt", steps=4)
    middle = PLAIN.replace(batch_size=7)
    path = tmp_path / "middle.pt"
    second, kept = stopped(middle, path, steps=6, start_from=first)
    assert kept[-1]["examples"] == 37 + 16 + 2 * 7
    rows, _ = run(PLAIN.replace(batch_size=8), start_from=second, evaluations=37)
    assert [row["examples"] for row in rows] == [74, 82, 90, 98, 106, 111]


@pytest.mark.parametrize(
    ("before", "after", "options", "message"),
    [
        (PLAIN, PLAIN, {"seed": 2}, "has seed 1, this one 2"),
        (PLAIN, PLAIN.replace(optimizer=ADAMW), {}, "by optimizer 'sgd' cannot go on by 'adamw'"),
        (
            PLAIN,
            PLAIN.replace(budget=Epochs(1)),
            {},
            "53 examples in 1.432 epochs, and .* budget of 1 epochs, .* is spent by then",
        ),
        (PLAIN, PLAIN.replace(schedule=Plateau(patience=0.2)), {}, "'plateau' listens to the run"),
        (PLAIN.replace(averaging=Ema(decay=0.9)), PLAIN.replace(averaging=Lookahead()), {}, "'ema' cannot go on as"),
        (PLAIN, PLAIN, {"model": toy_model(norm=False)}, "not one of this model: .*go on with the same model"),
        (PLAIN, PLAIN, {"observers": [WeightDistance()]}, "that saved the state, 0, got 1"),
        (PLAIN, PLAIN.replace(batch_size=40), {}, "larger than the training set of 37"),
    ],
)
def test_what_cannot_go_on_is_told_in_one_line(
    before: Recipe, after: Recipe, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    earlier, _ = stopped(before, tmp_path / "checkpoint.pt", steps=4)
    with pytest.raises(RequestError, match=message) as told:
        run(after, **options, start_from=earlier)
    assert "\n" not in str(told.value)


def test_other_data_or_no_checkpoint_are_told(tmp_path: Path) -> None:
    earlier, _ = stopped(PLAIN, tmp_path / "checkpoint.pt", steps=4)
    with pytest.raises(RequestError, match="has examples 37, this one 41"):
        next(train(toy_model(), toy_splits(41), PLAIN, seed=1, execution=FLOAT64, start_from=earlier))
    with pytest.raises(RequestError, match=r"no checkpoint .*absent.pt to go on from"):
        run(PLAIN, start_from=EarlierRun(PLAIN, tmp_path / "absent.pt"))


@pytest.mark.parametrize("optimizer", [Lion(lr=1e-3), Lars(lr=0.5), Lamb(lr=1e-2), Muon(lr=0.01)])
def test_optimizers_that_few_have_moved_go_on_too(optimizer: Optimizer, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers` is not installed")
    before = PLAIN.replace(optimizer=optimizer)
    rows, _ = run(before, evaluations=37)
    earlier, kept = stopped(before, tmp_path / "checkpoint.pt", steps=4)
    assert kept + run(before, start_from=earlier, evaluations=37)[0] == rows
    moved, _ = run(before.replace(batch_size=8), start_from=earlier, evaluations=37)
    assert moved[-1]["examples"] == 3 * N
    assert moved[-1]["train_loss"] < rows[0]["train_loss"]


def test_the_noise_scale_of_the_moment_carries_the_squares(tmp_path: Path) -> None:
    """Against the same by hand: one step after the switch, whose length is the second moment's."""
    before, noise = PLAIN.replace(optimizer=ADAMW, max_grad_norm=None), 5.0
    after = before.replace(batch_size=8)
    earlier, _ = stopped(before, tmp_path / "checkpoint.pt", steps=4)
    known = EarlierRun(earlier.recipe, earlier.checkpoint, noise_scale=noise)
    (*_, first), (*_, second) = (run(after, start_from=each, evaluations=1000)[0] for each in (earlier, known))
    assert first["train_loss"] != second["train_loss"]
    begun = beginning(after, N, 1, checkpoint=None, start_from=known)
    carried = carried_state(begun, after, toy_model().to(torch.float64), N)
    state = Checkpointer(earlier.checkpoint).load()
    assert state is not None
    gain = (1 + noise * (1 / 16 - 1 / N)) / (1 + noise * (1 / 8 - 1 / N))
    for found, old in zip(carried.values(), state["optimizer"]["state"].values(), strict=True):
        torch.testing.assert_close(found["exp_avg_sq"], old["exp_avg_sq"] / gain, rtol=1e-6, atol=0.0)
