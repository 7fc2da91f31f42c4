"""Probes on digits, with tiny settings: the same seed the same numbers, and those that `measure` gives when asked."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import draws
from rebatch.measure.epoch_correlation import cross_covariance_trace, sample_epochs
from rebatch.measure.increments import Gradient, Setting, covariance_trace, mean_step_square, sample_updates
from rebatch.measure.landscape import fit_alpha, landscape, spread, taylor_line, taylor_ratio
from rebatch.measure.random_walk import exponent, fractional_potential, mean_square_distance
from rebatch.nn import convert_ghost_batch_norm
from rebatch.recipe import Epochs, Noise, Recipe
from rebatch.study import frozen, probing
from rebatch.study.execute import execute
from rebatch.study.plan import RunSpec
from rebatch.study.probes import (
    Bagging,
    Cuts,
    EpochCorrelation,
    Escape,
    GradientErrors,
    Increments,
    KeptImages,
    Landscape,
    Probe,
    QuadraticSteps,
    RandomWalk,
    StepTime,
    ToTarget,
)
from rebatch.study.probing import Measured, probe
from rebatch.study.store import Result, RunFolder, Store
from rebatch.tasks import TASKS
from rebatch.tasks.table import SIMULATION
from rebatch.tasks.task import Task
from rebatch.training import Row, train
from study.made_up import probe_metrics

DIGITS = TASKS["digits/mlp"]
SEED = 3
GHOSTS = DIGITS.recipe.replace(batch_size=64, ghost_batch_size=16, noise=Noise(multiplicative=0.5))
GHOSTLESS = DIGITS.recipe.replace(batch_size=64, budget=Epochs(1))

LANDSCAPE = Landscape(draws=40, ranges=((0.0, 1.0), (1.0, 10.0)), examples=61)
WALK = RandomWalk(alpha=1.0, scale=2.0, sites=2001, walkers=3, log_times=(2.0, 8.0), points=4)
PROBES: dict[str, tuple[Probe, Recipe, Task]] = {
    "landscape": (LANDSCAPE, DIGITS.recipe, DIGITS),
    "landscape of batches": (Landscape(draws=40, examples=61, batch_size=7, glorot=False), DIGITS.recipe, DIGITS),
    "increments": (Increments(after=(0.0, 0.05), draws=4), GHOSTS, DIGITS),
    "epoch": (EpochCorrelation(after=0.02, epochs=3), DIGITS.recipe, DIGITS),
    "replacement": (EpochCorrelation(after=0.0, epochs=3, replacement=True), DIGITS.recipe, DIGITS),
    "walk": (WALK, SIMULATION.recipe, SIMULATION),
    "gradient errors": (
        GradientErrors(after=(0.0, 0.02), batch_sizes=(8, 64), draws=4),
        DIGITS.recipe,
        TASKS["digits/mlp-plain"],
    ),
    "shuffled, of some examples": (
        GradientErrors(after=(0.02,), draws=3, examples=50, shuffled=True),
        DIGITS.recipe,
        DIGITS,
    ),
    "quadratic_steps": (QuadraticSteps(coordinates=50), SIMULATION.recipe, SIMULATION),
    "kept images": (KeptImages(most_images=10**6), SIMULATION.recipe, SIMULATION),
    "cuts": (Cuts(micro_batch_sizes=(5, 64)), GHOSTLESS, TASKS["digits/mlp-plain"]),
    "bagging": (Bagging(repetitions=2, models=2, decay=0.5), GHOSTLESS, TASKS["digits/mlp-plain"]),
    "to target": (ToTarget(target=1.5, most=60, tuning=1, measured=2), DIGITS.recipe, DIGITS),
    "escape": (Escape(surface="saddle", walkers=3, most=999, noise=4.0), SIMULATION.recipe, SIMULATION),
    "plain": (RandomWalk(alpha=None, sites=201, walkers=2, log_times=(1.0, 4.0)), SIMULATION.recipe, SIMULATION),
}


def spec_of(wanted: Probe, recipe: Recipe = DIGITS.recipe, *, seed: int = SEED, task: Task = DIGITS) -> RunSpec:
    return RunSpec(task=task.name, recipe=recipe, seed=seed, probe=wanted)


def measured(name: str, *, seed: int = SEED) -> Measured:
    wanted, recipe, task = PROBES[name]
    return probe(spec_of(wanted, recipe, seed=seed, task=task), task, None)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_depends_on_its_seed_alone_and_leaves_no_trace_in_torch(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows, metrics = measured(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert measured(name) == (rows, metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert all("step" in row for row in rows)
    assert set(metrics) == set(probe_metrics(PROBES[name][0]))  # so that made-up ones are as real ones
    if name != "plain":  # a flat potential is the same for every seed
        assert measured(name, seed=SEED + 1)[1] != metrics


def inputs_and_targets(examples: int) -> tuple[Tensor, Tensor]:
    data = DIGITS.data(SEED)
    inputs = data.train.inputs[:examples]
    return (data.normalize(inputs) if data.normalize else inputs), data.train.targets[:examples]


def test_the_landscape_is_the_one_that_measure_draws() -> None:
    wanted = msgspec.structs.replace(LANDSCAPE, glorot=False, ranges=((0.0, 1.0),))
    rows, metrics = probe(spec_of(wanted), DIGITS, None)
    model, (inputs, targets) = DIGITS.model(SEED).train(), inputs_and_targets(61)
    generator = torch.Generator().manual_seed(int(draws.generator(SEED, "landscape").integers(2**62)))
    found = landscape(
        model, lambda: F.cross_entropy(model(inputs), targets), draws=40, low=0.0, high=1.0, generator=generator
    )
    bins = spread(found.distances, found.differences, [0.0, 0.5, 1.0])
    line = taylor_line(found.distances, found.gradient_norm, found.dimensions)
    ratio = taylor_ratio(found.differences, line)
    assert ratio is not None
    assert metrics["alpha:0-1"] == fit_alpha(bins).estimate
    assert metrics["taylor_ratio:0-1"] == ratio.estimate
    assert metrics["noise:0-1"] == found.noise == 0.0
    assert metrics["dimensions"] == sum(weight.numel() for weight in model.parameters())
    assert [row["rms"] for row in rows] == bins.rms.tolist()
    # The slope of a line through 0, by least squares.
    slope = np.linalg.lstsq(bins.distances[:, None], bins.rms, rcond=None)[0][0]
    assert metrics["slope:0-1"] == pytest.approx(slope)


def test_mini_batches_see_noise_where_the_whole_loss_has_none() -> None:
    assert measured("landscape of batches")[1]["noise:0-10"] > 0.01
    assert measured("landscape")[1]["noise:0-1"] == 0.0


@pytest.mark.parametrize(("draws_", "bins"), [(3, 2), (40, 2), (100, 5), (200, 10), (1000, 10)])
def test_few_draws_have_few_bins_so_that_none_stays_empty(draws_: int, bins: int) -> None:
    assert probing._bins(draws_) == bins


def gradient_by_backward(model: nn.Module) -> Gradient:
    """The twin: `.backward()` on the mean of weighted losses."""
    inputs, targets = inputs_and_targets(DIGITS.train)

    def gradient(indices: Tensor, weights: Tensor) -> Tensor:
        model.zero_grad()
        losses = F.cross_entropy(model(inputs[indices]), targets[indices], reduction="none")
        (losses * weights.float()).mean().backward()  # type: ignore[no-untyped-call]
        return torch.cat([weight.grad.reshape(-1) for weight in model.parameters() if weight.grad is not None])

    return gradient


def reference_run(steps: int) -> nn.Module:
    """The reference recipe's model after at least `steps` steps, at a row."""
    model = DIGITS.model(SEED)
    for row in train(model, DIGITS.data(SEED), DIGITS.recipe, seed=SEED, evaluations=1):
        if row["step"] >= steps:
            return model
    raise AssertionError


@pytest.mark.parametrize(("after", "steps"), [(0.0, 0), (0.05, 32)])
def test_increments_are_those_that_measure_draws_at_frozen_weights(after: float, steps: int) -> None:
    _, metrics = measured("increments")
    model = reference_run(steps) if steps else DIGITS.model(SEED)
    gradient = gradient_by_backward(convert_ghost_batch_norm(model, 16).train())
    rng = draws.generator(SEED, "increments", round(1000 * after))
    setting = Setting(batch_size=64, lr=GHOSTS.optimizer.lr, noise=0.5)
    updates = sample_updates(gradient, DIGITS.train, setting, draws=4, rng=rng)
    assert metrics[f"trace@{after:g}"] == pytest.approx(covariance_trace(updates).estimate, rel=1e-6)
    assert metrics[f"mean_square@{after:g}"] == pytest.approx(mean_step_square(updates).estimate, rel=1e-6)


def test_all_places_lie_on_one_reference_run_which_stops_at_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    def watched(*arguments: Any, **options: Any) -> Iterator[Row]:
        for row in train(*arguments, **options):
            steps.append(row["step"])
            yield row

    wanted = Increments(after=(0.0, 0.05, 0.02), draws=3)
    alone: dict[str, float] = {}
    for after in wanted.after:
        alone |= probe(spec_of(msgspec.structs.replace(wanted, after=(after,)), GHOSTS), DIGITS, None)[1]
    monkeypatch.setattr(frozen, "train", watched)
    assert probe(spec_of(wanted, GHOSTS), DIGITS, None)[1] == alone  # a place does not change what comes after it
    assert steps == sorted(set(steps))
    assert steps[-2] < 32 <= steps[-1]


def test_the_learning_rate_scales_mean_and_covariance_by_its_square() -> None:
    wanted = Increments(after=(0.0,), draws=3)
    one, three = (probe(spec_of(wanted, GHOSTS.with_lr(lr)), DIGITS, None)[1] for lr in (0.1, 0.3))
    assert three == pytest.approx({name: 9.0 * value for name, value in one.items()}, rel=1e-5)


def test_the_correlation_is_that_of_the_batches_that_measure_draws() -> None:
    _, metrics = measured("epoch")
    gradient = gradient_by_backward(reference_run(13).eval())  # 0.02 of 640 steps
    rng = draws.generator(SEED, "epoch_correlation")
    found = sample_epochs(gradient, DIGITS.train, 32, batches=8, epochs=3, rng=rng)
    own = covariance_trace(found[:, 0]).estimate
    assert metrics["own_trace"] == pytest.approx(own, rel=1e-6)
    assert metrics["correlation"] == pytest.approx(cross_covariance_trace(found).estimate / own, rel=1e-6)
    assert metrics["expected_correlation"] == pytest.approx(-32 / (1024 - 32))


def test_two_batches_that_are_the_whole_epoch_are_each_other_s_opposite() -> None:
    wanted = EpochCorrelation(after=0.0, epochs=5)
    _, metrics = probe(spec_of(wanted, DIGITS.recipe.replace(batch_size=512)), DIGITS, None)
    assert metrics["correlation"] == pytest.approx(-1.0, abs=1e-4)  # float32 gradients
    assert metrics["expected_correlation"] == -1.0


def test_a_walk_is_the_one_that_measure_computes() -> None:
    rows, metrics = measured("walk")
    potential = fractional_potential(1.0, 2001, 3, draws.generator(SEED, "random_walk"), scale=2.0)
    log_times = np.geomspace(2.0, 8.0, 4)
    squares = mean_square_distance(potential, np.exp(log_times))
    assert [row["log_time"] for row in rows] == pytest.approx(log_times.tolist())
    assert [row["distance"] for row in rows] == np.sqrt(squares.mean(0)).tolist()
    assert metrics == {"exponent": exponent(log_times, squares).estimate}


def test_on_a_plain_the_distance_is_the_square_root_of_the_time() -> None:
    rows, metrics = measured("plain")
    assert metrics["exponent"] == pytest.approx(0.5, abs=1e-3)
    assert [row["distance"] for row in rows] == pytest.approx([math.sqrt(row["step"]) for row in rows], rel=1e-3)


def test_the_time_of_a_step_is_a_ratio_of_both_times() -> None:
    _, metrics = probe(spec_of(StepTime(steps=8, repeats=1), GHOSTS), DIGITS, None)
    assert set(metrics) == set(probe_metrics(StepTime()))
    assert metrics["ratio"] == pytest.approx(metrics["seconds_ghost"] / metrics["seconds_plain"])
    assert min(metrics.values()) > 0.0


@pytest.mark.parametrize("wanted", [Increments(after=(0.0,), draws=3), Landscape(draws=40, examples=61)])
def test_a_net_with_dropout_is_probed_by_the_seed_too(wanted: Probe) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))

    task = dataclasses.replace(DIGITS, build=build)
    torch.manual_seed(0)
    first = probe(spec_of(wanted, task=task), task, None)
    torch.manual_seed(1)
    assert probe(spec_of(wanted, task=task), task, None) == first


# In a store


def performed(folder: RunFolder, name: str = "walk") -> Result:
    wanted, recipe, task = PROBES[name]
    spec = spec_of(wanted, recipe, task=task)
    return execute(spec, folder, task, data_dir=None, environment={"a": 1}, on_row=lambda _: None)


def begun(folder: Path, name: str = "walk") -> RunFolder:
    wanted, recipe, task = PROBES[name]
    return Store(folder, create=True).begin(spec_of(wanted, recipe, task=task))


def test_a_probe_leaves_rows_and_a_result_without_an_accuracy(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    result = performed(folder)
    rows, metrics = measured("walk")
    assert (result.status, result.steps, result.accuracy, result.correct) == ("done", 0, None, "")
    assert result.metrics == metrics
    assert folder.rows() == rows
    assert folder.result() == result
    assert result.environment["a"] == 1


def test_a_probe_that_is_killed_between_its_rows_is_done_again_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    folder, append = begun(tmp_path), RunFolder.append

    def dying(self: RunFolder, row: Any) -> None:
        if len(self.rows()) == 2:
            raise Killed
        append(self, row)

    monkeypatch.setattr(RunFolder, "append", dying)
    with pytest.raises(Killed):
        performed(folder)
    monkeypatch.undo()
    assert folder.result() is None
    assert len(folder.rows()) == 2
    result = performed(folder)
    rows, metrics = measured("walk")
    assert (folder.rows(), result.metrics) == (rows, metrics)


def test_a_number_that_is_not_finite_is_kept_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probing._PROBES, RandomWalk, lambda *_: ([], {"exponent": math.nan}))
    folder = begun(tmp_path)
    performed(folder)
    result = folder.result()
    assert result is not None
    assert result.metrics == {"exponent": None}


def test_a_probe_is_a_part_of_what_a_run_is() -> None:
    specs = [spec_of(wanted, recipe, task=task) for wanted, recipe, task in PROBES.values()]
    bare = RunSpec(task=DIGITS.name, recipe=DIGITS.recipe, seed=SEED)
    assert len({bare.run_id, *(spec.run_id for spec in specs)}) == len(specs) + 1
