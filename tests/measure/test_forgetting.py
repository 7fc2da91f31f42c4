"""Replays against a loop that keeps every batch it was shown, and the decay against curves whose tau is known."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rebatch import draws
from rebatch.data.augment import Flip, PadCrop
from rebatch.data.batches import past_batches
from rebatch.data.sets import DataSet, Splits
from rebatch.interval import Interval
from rebatch.measure import Decay, Forgetting, fit_decay
from rebatch.observation import Observation, Observer
from rebatch.recipe import Recipe
from rebatch.training import train
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits


def exponential(ages: np.ndarray, *, limit: float, amplitude: float, tau: float) -> np.ndarray:
    return limit - amplitude * np.exp(-ages / tau)


class _KeepsBatches(Observer):
    """The twin: holds the inputs themselves."""

    def __init__(self, data: Splits, recipe: Recipe) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.online: list[float] = []
        self._data, self._recipe = data, recipe

    def step(self, observation: Observation) -> None:
        size, n = self._recipe.batch_size, len(self._data.train)
        per_epoch = math.ceil(n / size)
        epoch, place = divmod(observation.step, per_epoch)
        chosen = draws.order(7, epoch, n)[place * size : (place + 1) * size]
        self.batches.append((self._data.train.inputs[chosen], self._data.train.targets[chosen]))
        self.online.append(observation.loss.item() / len(chosen))


def test_the_replay_shows_every_batch_again_with_its_age_its_loss_then_and_now() -> None:
    data, model = toy_splits(), toy_model()
    forgetting, twin = Forgetting(37, epochs=2), _KeepsBatches(data, RECIPE)
    for _ in train(model, data, RECIPE, seed=7, execution=FLOAT64, observers=[forgetting, twin]):
        pass
    before = state_of(model)
    replay = forgetting.replay(model, past_batches(data, RECIPE, seed=7))
    assert_same_state(state_of(model), before)
    assert model.training
    # 9 steps of 16, 16 and 5 examples; two epochs are the last six.
    assert replay.ages == pytest.approx(np.array([58, 42, 37, 21, 5, 0]) / 37)
    assert replay.online == pytest.approx(twin.online[3:])
    frozen = copy.deepcopy(model).eval()
    expected = [F.cross_entropy(frozen(inputs), targets).item() for inputs, targets in twin.batches[3:]]
    assert replay.losses == pytest.approx(expected, rel=1e-12)


def test_batch_norm_may_be_replayed_by_the_batches_own_statistics_without_a_trace() -> None:
    data, model = toy_splits(), toy_model()
    forgetting, twin = Forgetting(37, epochs=1), _KeepsBatches(data, RECIPE)
    for _ in train(model, data, RECIPE, seed=7, execution=FLOAT64, observers=[forgetting, twin]):
        pass
    before = state_of(model)
    replay = forgetting.replay(model, past_batches(data, RECIPE, seed=7), training_mode=True)
    assert_same_state(state_of(model), before)
    working = copy.deepcopy(model).train()
    expected = [F.cross_entropy(working(inputs), targets).item() for inputs, targets in twin.batches[6:]]
    assert replay.losses == pytest.approx(expected, rel=1e-12)


def test_a_past_batch_is_rebuilt_with_its_augmentation() -> None:
    images = torch.arange(7 * 3 * 5 * 5, dtype=torch.float64).view(7, 3, 5, 5)
    data = DataSet(images, torch.arange(7) % 2)
    splits = Splits(data, data, data, augmentations=(PadCrop(padding=1), Flip()))
    recipe = RECIPE.replace(batch_size=3, ghost_batch_size=None)
    past = past_batches(splits, recipe, seed=3)
    seen: list[Tensor] = []

    class Looks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(75, 2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.clone())
            return x.flatten(1) @ self.weight

    for _ in train(Looks(), splits, recipe, seed=3, execution=FLOAT64):
        pass
    assert len(seen) == 9
    for step in (8, 0, 5, 4):
        assert torch.equal(past(step)[0], seen[step])


def test_in_a_loop_of_ones_own_the_key_is_what_rebuilds_a_batch() -> None:
    inputs, targets = torch.randn(37, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(37) % 3
    model, forgetting = toy_model(norm=False), Forgetting(37, epochs=1)
    for start in (0, 16, 32):
        chosen = torch.arange(start, min(start + 16, 37), dtype=torch.int32)
        loss = F.cross_entropy(model(inputs[chosen]), targets[chosen])
        forgetting.saw(chosen, loss=loss)
    replay = forgetting.replay(model, lambda chosen: (inputs[chosen], targets[chosen]))
    assert replay.ages == pytest.approx(np.array([21, 5, 0]) / 37)
    assert replay.losses == pytest.approx(replay.online)  # the weights never moved


def test_measuring_does_not_change_the_run_and_a_resumed_observer_goes_on() -> None:
    data, plain, watched = toy_splits(), toy_model(), toy_model()
    forgetting = Forgetting(37, epochs=1)
    for _ in train(plain, data, RECIPE, seed=1, execution=FLOAT64):
        pass
    for _ in train(watched, data, RECIPE, seed=1, execution=FLOAT64, observers=[forgetting]):
        pass
    assert_same_state(state_of(watched), state_of(plain))
    again = Forgetting(37, epochs=1)
    again.load_state_dict(forgetting.state_dict())
    past = past_batches(data, RECIPE, seed=1)
    first, second = forgetting.replay(watched, past), again.replay(watched, past)
    assert np.array_equal(first.losses, second.losses)
    assert np.array_equal(first.online, second.online)
    for each in (forgetting, again):
        each.saw(99, loss=1.0, examples=30)
    assert len(again.replay(watched, lambda _: past(0)).ages) == len(forgetting.replay(watched, lambda _: past(0)).ages)


@pytest.mark.parametrize("tau", [0.05, 0.2, 0.7])
def test_the_decay_of_a_clean_curve_is_found(tau: float) -> None:
    ages = np.arange(391)[::-1] / 391
    found = fit_decay(ages, exponential(ages, limit=0.4, amplitude=0.3, tau=tau))
    assert found.tau.estimate == pytest.approx(tau, rel=0.01)  # the grid's steps are 1.3 %
    assert found.limit == pytest.approx(0.4, rel=0.01)
    assert found.newest == pytest.approx(0.1, rel=0.05)
    assert found.age_at(0.4) == pytest.approx(-tau * math.log(0.1), rel=0.05)


@pytest.mark.parametrize("tau", [0.1, 0.4])
def test_its_interval_covers_as_often_as_it_says(tau: float) -> None:
    rng, ages = np.random.default_rng(0), np.arange(391)[::-1] / 391
    curve, rounds = exponential(ages, limit=0.4, amplitude=0.2, tau=tau), 400
    covered = 0
    for _ in range(rounds):
        found = fit_decay(ages, curve + rng.normal(scale=0.05, size=len(ages))).tau
        covered += found.low <= tau <= found.high
    z = (covered / rounds - 0.95) / math.sqrt(0.95 * 0.05 / rounds)
    assert abs(z) < 4


def test_a_flat_curve_says_that_it_knows_nothing() -> None:
    ages = np.arange(200)[::-1] / 200
    found = fit_decay(ages, 0.3 + np.random.default_rng(1).normal(scale=0.02, size=200))
    assert found.tau.low == 0.0
    assert math.isinf(found.tau.high)


def test_older_batches_than_an_epoch_do_not_enter_and_too_few_are_refused() -> None:
    ages = np.arange(400)[::-1] / 100
    curve = np.where(ages < 1, exponential(ages, limit=0.4, amplitude=0.3, tau=0.2), 17.0)
    assert fit_decay(ages, curve).limit == pytest.approx(0.4, rel=0.02)
    with pytest.raises(ValueError, match="at least 8 batches within 1 epochs, got 7"):
        fit_decay(np.arange(7) / 7, np.ones(7))


def test_how_far_back_the_test_loss_is_reached() -> None:
    decay = Decay(limit=1.0, amplitude=0.8, tau=Interval(0.25, 0.2, 0.3))
    assert decay.newest == pytest.approx(0.2)
    assert decay.age_at(0.9, share=0.5) == pytest.approx(-0.25 * math.log(1 - 0.35 / 0.8))
    assert decay.age_at(1.2) == math.inf
    assert decay.age_at(0.1) == 0.0


def test_an_age_bin_holds_its_batches_mean() -> None:
    data, forgetting = toy_splits(), Forgetting(10, epochs=3)
    for step in range(6):
        forgetting.saw(step, loss=float(step), examples=5)
    replay = forgetting.replay(toy_model(), lambda step: (data.train.inputs[step : step + 2], torch.zeros(2).long()))
    bins = replay.binned(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert bins[:3] == pytest.approx(replay.losses.reshape(3, 2).mean(1)[::-1])
    assert math.isnan(bins[3])


@pytest.mark.parametrize(("examples", "epochs"), [(0, 1.0), (5, 0.0), (5, math.nan)])
def test_a_memory_of_nothing_is_refused(examples: int, epochs: float) -> None:
    with pytest.raises(ValueError, match="examples must be at least 1 and epochs positive"):
        Forgetting(examples, epochs=epochs)
