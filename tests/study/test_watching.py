"""What watches a run for a study: each number against the same one computed plainly, and no trace in the run."""

import copy
import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import nn

from rebatch.distributed import World
from rebatch.measure.curvature import top_eigenvalue
from rebatch.measure.forgetting import Forgetting
from rebatch.observation import Observation, Observer
from rebatch.recipe import Epochs, Recipe, Steps
from rebatch.schedule import Constant, MultiStep, PiecewiseLinear
from rebatch.study.finals import check_finals, finals, watchers
from rebatch.study.limits import curvature_in_training, high_rate_ends, measure_limits, recent_decay
from rebatch.study.plan import RunSpec
from rebatch.study.watching import PeakCurvature, with_recomputed_statistics
from rebatch.tasks import TASKS
from rebatch.training import Row, train
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits

DIGITS = TASKS["digits/mlp"]
ALL = ("last_epoch", "high_rate", "peak_curvature", "recomputed_statistics")
SHORT = DIGITS.recipe.replace(budget=Epochs(4))


def run_of(recipe: Recipe, names: Sequence[str] = ALL) -> tuple[dict[str, float], list[Row], nn.Module]:
    """What the finals find after a run on digits, its rows and its model."""
    spec = RunSpec(task=DIGITS.name, recipe=recipe, seed=0, finals=tuple(names), evaluations=4)
    check_finals(names)
    data = DIGITS.data(0)
    model, watched = DIGITS.model(0, data), watchers(spec, data)
    rows = list(train(model, data, recipe, seed=0, observers=list(watched.values()), evaluations=4))
    return finals(spec, model, data, World(), watched), rows, model


def test_watching_does_not_change_the_run() -> None:
    _, rows, model = run_of(SHORT)
    _, plain_rows, plain_model = run_of(SHORT, ())
    assert_same_state(state_of(model), state_of(plain_model))
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in plain_rows]


def test_the_last_epoch_s_loss_is_the_mean_of_what_was_trained_on() -> None:
    class Losses(Observer):
        def __init__(self) -> None:
            self.sums: list[float] = []

        def step(self, observation: Observation) -> None:
            self.sums.append(float(observation.loss))

    found, _, _ = run_of(SHORT, ["last_epoch"])
    losses = Losses()
    list(train(DIGITS.model(0), DIGITS.data(0), SHORT, seed=0, observers=[losses], evaluations=4))
    assert found["last_epoch_loss"] == pytest.approx(sum(losses.sums[-32:]) / 1024)
    assert found["chance_loss"] == pytest.approx(math.log(10))


class Snapshot(Observer):
    """The model before a step."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.model: nn.Module = nn.Identity()

    def step(self, observation: Observation) -> None:
        if observation.step == self._step:
            self.model = copy.deepcopy(observation.model)


def test_the_high_rate_is_looked_at_where_and_as_measure_limits_does() -> None:
    found, _, _ = run_of(SHORT, ["high_rate"])
    limits = measure_limits(DIGITS.model(0), DIGITS.data(0), SHORT, seed=0, factors=(1.0,), branch_steps=4)
    # An observer looks after the step's forward pass: batch norm's running statistics have seen one batch more.
    assert found["unseen_loss"] == pytest.approx(limits.unseen_loss, rel=1e-3)
    ends, data = high_rate_ends(SHORT, 1024), DIGITS.data(0)
    assert ends == limits.step
    snapshot, forgetting = Snapshot(ends), Forgetting(1024, epochs=1.0)
    until = SHORT.replace(budget=Steps(ends), schedule=Constant())  # the same steps, and no more to remember
    list(train(DIGITS.model(0), data, until, seed=0, observers=[forgetting], evaluations=4))
    list(train(DIGITS.model(0), data, SHORT, seed=0, observers=[snapshot], evaluations=4))
    decay, unseen = recent_decay(forgetting, snapshot.model, data, SHORT, seed=0)
    assert found["newest_loss"] == pytest.approx(decay.newest, rel=1e-6)
    assert found["forgotten_at_high_rate"] == pytest.approx(min(decay.age_at(unseen), 1.0), rel=1e-6)


def test_a_high_rate_that_lasts_is_measured_at_the_end() -> None:
    recipe = SHORT.replace(schedule=Constant())
    assert high_rate_ends(recipe, 1024) == 128
    found, _, model = run_of(recipe, ["high_rate"])
    data, forgetting = DIGITS.data(0), Forgetting(1024, epochs=1.0)
    list(train(again := DIGITS.model(0), data, recipe, seed=0, observers=[forgetting], evaluations=4))
    assert_same_state(state_of(again), state_of(model))
    assert found["unseen_loss"] == pytest.approx(recent_decay(forgetting, again, data, recipe, seed=0)[1])


@pytest.mark.parametrize(
    ("schedule", "peak"),
    [
        (PiecewiseLinear(points=((0.0, 0.0), (0.5, 1.0), (1.0, 0.0))), 64),
        (MultiStep(milestones=(0.5,)), 63),
        (Constant(), 127),
    ],
)
def test_the_curvature_is_measured_where_the_rate_was_highest_for_the_last_time(schedule: object, peak: int) -> None:
    recipe = SHORT.replace(schedule=schedule)
    found, _, _ = run_of(recipe, ["peak_curvature"])
    assert found["peak_lr"] == pytest.approx(recipe.optimizer.lr)

    snapshot, data = Snapshot(peak), DIGITS.data(0)
    list(train(DIGITS.model(0), data, recipe, seed=0, observers=[snapshot], evaluations=4))
    assert found["peak_eigenvalue"] == pytest.approx(curvature_in_training(snapshot.model, data).value, rel=1e-6)


def test_the_peak_rate_of_a_summed_loss_is_given_on_the_mean_loss() -> None:
    spec = RunSpec(task="toy", recipe=RECIPE.replace(loss_reduction="sum", schedule=Constant()), seed=0)
    model, data = toy_model(), toy_splits()
    peak = PeakCurvature(spec, data)
    list(train(model, data, spec.recipe, seed=0, observers=[peak], evaluations=1))
    assert peak.found["peak_lr"] == pytest.approx(16 * spec.recipe.optimizer.lr)


def test_recomputed_statistics_are_the_mean_of_those_of_the_batches() -> None:
    model, inputs = toy_model(), toy_splits().train.inputs
    before = state_of(model)
    probe = with_recomputed_statistics(model, [inputs[:7], inputs[7:18]])
    assert_same_state(state_of(model), before)
    hidden = [model[0](part).detach() for part in (inputs[:7], inputs[7:18])]
    assert isinstance(probe, nn.Sequential)
    norm = probe[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([part.mean(0) for part in hidden]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([part.var(0) for part in hidden]).mean(0))
    assert not probe.training


def test_recomputed_accuracies_stand_in_the_rows_of_late_evaluations() -> None:
    _, rows, _ = run_of(SHORT)
    steps = [row["step"] for row in rows if "recomputed_accuracy" in row]
    assert steps == [64, 96, 128]
    assert all("validation_accuracy" in row for row in rows if "recomputed_accuracy" in row)
    assert all(50.0 < row["recomputed_accuracy"] <= 100.0 for row in rows if "recomputed_accuracy" in row)


def test_a_resumed_run_finds_the_same() -> None:
    spec = RunSpec(task=DIGITS.name, recipe=SHORT, seed=0, finals=ALL, evaluations=4)
    data = DIGITS.data(0)
    model, whole = DIGITS.model(0, data), watchers(spec, data)
    states = {}
    for row in train(model, data, SHORT, seed=0, observers=list(whole.values()), evaluations=4):
        if row["step"] == 96:
            states = copy.deepcopy({name: watcher.state_dict() for name, watcher in whole.items()})
    again = watchers(spec, data)
    for name, watcher in again.items():
        watcher.load_state_dict(states[name])
    spec = RunSpec(task=DIGITS.name, recipe=SHORT, seed=0, finals=("high_rate", "peak_curvature"))
    found = finals(spec, model, data, World(), whole)
    assert finals(spec, model, data, World(), again) == found
    assert found.keys() >= {"forgotten_at_high_rate", "peak_eigenvalue"}


def test_a_broken_run_has_no_curvature_and_no_decay_and_goes_on() -> None:
    data, recipe = DIGITS.data(0), SHORT
    model = DIGITS.model(0, data)
    forgetting = Forgetting(1024, epochs=1.0)
    list(train(model, data, recipe, seed=0, observers=[forgetting], evaluations=4))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
    decay, unseen = recent_decay(forgetting, model, data, recipe, seed=0)
    assert math.isnan(unseen)
    assert math.isnan(decay.age_at(unseen))
    peak = PeakCurvature(RunSpec(task=DIGITS.name, recipe=recipe.replace(schedule=Constant()), seed=0), data)
    for loss in (math.nan, 1.0):  # seen in the loss, or only by Lanczos
        peak.step(Observation(127, model, 32, 0.1, torch.tensor(loss)))
        assert math.isnan(peak.found["peak_eigenvalue"])


def test_a_peak_whose_curvature_was_not_found_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebatch.study.limits.top_eigenvalue", partial(top_eigenvalue, max_products=2))
    found, _, _ = run_of(SHORT, ["peak_curvature"])
    assert math.isnan(found["peak_eigenvalue"])
