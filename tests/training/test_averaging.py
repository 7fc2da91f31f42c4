"""Averages of weights against hand-written ones, and that they leave the laws of training alone."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rebatch import draws
from rebatch.averaging import Averaging, Ema, Lookahead, share_of_newest
from rebatch.measure import WeightDistance
from rebatch.recipe import Steps
from rebatch.schedule import Constant
from rebatch.training import Checkpointer, evaluate, train
from rebatch.training.averaging import WeightAverage
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import assert_same_rows, by_hand, mean_loss, run, sgd, stopped_and_resumed

PLAIN = RECIPE.replace(ghost_batch_size=None, schedule=Constant(), max_grad_norm=None)
STEPS = 9
AVERAGES: dict[str, Averaging] = {
    "ema": Ema(decay=0.8),
    "ema every 2": Ema(decay=0.9, every=2),
    "ema once": Ema(decay=0.9, every=5),  # so that a run resumed later has no average of its own
    "lookahead": Lookahead(decay=0.8, every=2, power=1.0),
    "lookahead each step": Lookahead(decay=0.9, every=1, power=0.0),
}
CASES = pytest.mark.parametrize("averaging", AVERAGES.values(), ids=AVERAGES)
State = dict[str, Tensor]


def floats(state: State) -> State:
    return {name: value for name, value in state.items() if value.is_floating_point()}


def visited() -> tuple[list[State], State]:
    """States of the plain run after each step, and the last one whole."""
    model, states = toy_model(), []

    def keep(step: int, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        if step > 0:
            states.append(floats(state_of(model)))
        return optimizer

    by_hand(PLAIN, model, start=keep)
    states.append(floats(state_of(model)))
    return states, state_of(model)


def ema_by_hand(states: list[State], decay: float, every: int) -> State:
    """The mean of every `every`-th state, each weighing by its age in steps."""
    chosen = range(every, len(states) + 1, every)
    weights = {step: decay ** (chosen[-1] - step) for step in chosen}
    return {
        name: torch.stack([weight * states[step - 1][name] for step, weight in weights.items()]).sum(0)
        / sum(weights.values())
        for name in states[0]
    }


def lookahead_by_hand(averaging: Lookahead, model: nn.Module) -> None:
    """Train `model`; slow weights are put in place at every `every`-th step, and those of the last time at the end."""
    optimizer, slow, step = sgd(PLAIN, model), floats(state_of(model)), 0
    for epoch in range(3):
        for chosen in torch.split(torch.from_numpy(draws.order(1, epoch, 37)), PLAIN.batch_size):
            optimizer.zero_grad()
            mean_loss(model, epoch, chosen).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % averaging.every == 0:
                rho = averaging.decay**averaging.every * (step / STEPS) ** averaging.power
                now = state_of(model)
                slow = {name: rho * old + (1 - rho) * now[name] for name, old in slow.items()}
                model.load_state_dict({**now, **slow})
    model.load_state_dict({**state_of(model), **slow})


@pytest.mark.parametrize(("decay", "every"), [(0.8, 1), (0.9, 2), (0.99, 4), (0.5, 9)])
def test_a_run_ends_with_the_moving_average_of_its_weights(decay: float, every: int) -> None:
    states, last = visited()
    _, found = run(PLAIN.replace(averaging=Ema(decay=decay, every=every)))
    assert_same_state(floats(found), ema_by_hand(states, decay, every), rtol=1e-10)
    assert torch.equal(found["1.num_batches_tracked"], last["1.num_batches_tracked"])  # a count is not averaged


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_a_run_goes_on_from_and_ends_with_its_slow_weights(every: int, power: float) -> None:
    averaging, model = Lookahead(decay=0.8, every=every, power=power), toy_model()
    lookahead_by_hand(averaging, model)
    _, found = run(PLAIN.replace(averaging=averaging))
    assert_same_state(found, state_of(model), rtol=1e-10)
    with pytest.raises(AssertionError, match="differs"):
        assert_same_state(found, run(PLAIN)[1], rtol=1e-3)


def test_every_row_is_evaluated_at_the_average_of_that_moment() -> None:
    rows, _ = run(PLAIN.replace(averaging=Ema(decay=0.8, every=2)), evaluations=STEPS)
    states, last = visited()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        step, model = int(row["step"]), toy_model()
        # Before the first average there are only the weights themselves.
        average = ema_by_hand(states[:step], 0.8, 2) if step >= 2 else states[0]
        model.load_state_dict({**last, **average})
        found = evaluate(model, toy_splits().validation, execution=FLOAT64)
        assert row["validation_loss"] == pytest.approx(found.loss, rel=1e-10)
        assert row["validation_accuracy"] == found.accuracy


def test_a_moving_average_does_not_change_the_training() -> None:
    plain, _ = run(RECIPE, observers=[WeightDistance()])
    averaged, _ = run(RECIPE.replace(averaging=Ema(decay=0.8)), observers=[WeightDistance()])
    for row, other in zip(plain, averaged, strict=True):
        for name in ("train_loss", "weight_distance", "lr"):
            assert row[name] == other[name]
    assert plain[-1]["validation_loss"] != averaged[-1]["validation_loss"]


@CASES
def test_being_evaluated_does_not_change_the_run(averaging: Averaging) -> None:
    recipe = RECIPE.replace(averaging=averaging)
    seldom, often = run(recipe, evaluations=1), run(recipe, evaluations=STEPS)
    assert_same_state(seldom[1], often[1])
    assert [row["train_loss"] for row in seldom[0]] == [row["train_loss"] for row in often[0]]


@CASES
@pytest.mark.parametrize("micro_batch_size", [4, 12])
def test_micro_batch_size_does_not_change_an_averaged_run(averaging: Averaging, micro_batch_size: int) -> None:
    recipe = RECIPE.replace(averaging=averaging)
    rows, weights = run(recipe)
    cut_rows, cut_weights = run(recipe, micro_batch_size=micro_batch_size)
    assert_same_rows(cut_rows, rows, rtol=1e-10)
    assert_same_state(cut_weights, weights, rtol=1e-10)


@CASES
@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_averaged_run_resumes_bit_for_bit(averaging: Averaging, after: int, tmp_path: Path) -> None:
    recipe = RECIPE.replace(averaging=averaging)
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)


@CASES
def test_a_run_that_was_stopped_after_its_last_step_still_ends_with_the_average(
    averaging: Averaging, tmp_path: Path
) -> None:
    recipe, path = RECIPE.replace(averaging=averaging), tmp_path / "checkpoint.pt"
    _, weights = run(recipe, checkpoint=Checkpointer(path, seconds=0.0))
    rows, resumed = run(recipe, checkpoint=Checkpointer(path, seconds=1e9))
    assert rows == []
    assert_same_state(resumed, weights)


def test_the_last_row_comes_with_the_model_that_the_run_ends_with() -> None:
    model = toy_model()
    for row in train(model, toy_splits(), RECIPE.replace(averaging=Ema(decay=0.8)), seed=1, execution=FLOAT64):
        last = row, state_of(model)
    assert_same_state(last[1], state_of(model))
    found = evaluate(model, toy_splits().validation, execution=FLOAT64)
    assert last[0]["validation_loss"] == found.loss


def test_a_run_too_short_for_an_average_ends_with_its_weights() -> None:
    recipe = RECIPE.replace(budget=Steps(3))
    rows, weights = run(recipe)
    for averaging in (Ema(decay=0.9, every=4), Lookahead(every=5)):
        assert run(recipe.replace(averaging=averaging))[0] == rows
        assert_same_state(run(recipe.replace(averaging=averaging))[1], weights)


def test_a_diverged_run_ends_as_it_diverged() -> None:
    recipe = PLAIN.with_lr(1e200).replace(averaging=Ema(decay=0.5))
    rows, _ = run(recipe, toy_model(norm=False))
    assert rows[-1]["diverged"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_an_average_is_not_kept_in_half_precision(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    average = WeightAverage(Ema(decay=0.999), lambda step: step / 1000, model)
    total = 0.0
    for step in range(1, 401):
        nn.init.constant_(model.weight, step % 2)
        average.after_step(step)
        total = 0.999 * total + (step % 2)
    expected = total / sum(0.999**age for age in range(400))
    (kept,) = average.state_dict()["average"]
    assert kept.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Each of 400 roundings costs at most half a unit of the last of 24 bits; in bfloat16 shares under 1/256 are lost.
    assert kept.item() == pytest.approx(expected, rel=400 * 2**-24)
    average.keep()
    assert model.weight.dtype == dtype
    assert model.weight.item() == pytest.approx(expected, rel=2**-8 if dtype == torch.bfloat16 else 1e-5)


def test_shares_are_those_of_airbench94_and_of_a_mean() -> None:
    for step in range(5, 477, 5):
        kept = 0.95**5 * (step / 476) ** 3
        assert share_of_newest(Lookahead(), step, step / 476) == pytest.approx(1 - kept, rel=1e-12)
    # Without forgetting an average is the mean.
    for count in (1, 2, 7, 100):
        found = share_of_newest(Ema(decay=1 - 1e-9, every=3), 3 * count, 0.5)
        assert found == pytest.approx(1 / count, rel=1e-6)


def test_a_decay_is_counted_per_step() -> None:
    # Over 60 steps as much is left, however often the average is taken.
    for every in (1, 2, 3, 5):
        left = math.prod(1 - share_of_newest(Ema(decay=0.9, every=every), step, 0) for step in range(600, 660, every))
        assert left == pytest.approx(0.9**60, rel=1e-9)


def test_a_stretched_run_stretches_lookahead() -> None:
    averaging = Lookahead(decay=0.9, every=2, power=2.0)
    assert share_of_newest(averaging, 10, 10 / 20) == share_of_newest(averaging, 40, 40 / 80)
