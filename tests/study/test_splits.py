"""What part of the training set a run sees, and what is found by watching it."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from rebatch.data.augment import Flip, PadCrop
from rebatch.data.sets import DataSet, Splits, nested_order
from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.schedule import Constant
from rebatch.study.execute import execute
from rebatch.study.plan import Arm, Design, RunSpec, Study, TrainingSet, make_plan
from rebatch.study.splits import splits_of
from rebatch.study.store import Result, Store
from rebatch.tasks import TASKS, Task

DIGITS = TASKS["digits/mlp"]
RECIPE = Recipe(batch_size=16, optimizer=Sgd(lr=0.05, momentum=0.9), budget=Epochs(6), schedule=Constant(warmup=0.2))


def load_images(_: Path, __: int) -> Splits:
    """320 images of digits to train on, cropped and flipped, the rest to validate and test on."""
    whole = DIGITS.data(0).train
    images = DataSet(whole.inputs.view(-1, 1, 8, 8), whole.targets)
    train, validation, test = (images.subset(range(*bounds)) for bounds in ((0, 320), (320, 640), (640, 900)))
    return Splits(train, validation, test, augmentations=(PadCrop(padding=1), Flip()))


def build_small() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )


IMAGES = Task("images/small", RECIPE, 320, 320, 260, classes=10, build=build_small, load=load_images)


def spec_of(data: TrainingSet, *names: str) -> RunSpec:
    return RunSpec(task=IMAGES.name, recipe=RECIPE, seed=1, data=data, finals=names)


def test_a_spec_without_a_part_has_the_id_it_always_had() -> None:
    plain = RunSpec(task="digits/mlp", recipe=DIGITS.recipe, seed=0)
    assert "data" not in msgspec.to_builtins(plain)
    assert plain.run_id != msgspec.structs.replace(plain, data=TrainingSet(examples=512)).run_id


def test_smaller_training_sets_lie_within_larger_ones_and_stay_in_order() -> None:
    whole, seen = IMAGES.data(), []
    for examples in (50, 120, None):
        found = splits_of(spec_of(TrainingSet(examples=examples)), IMAGES, None)
        assert len(found.train) == (examples or 320)
        assert len(found.validation) == 320
        assert found.augmentations == whole.augmentations
        seen.append({tuple(row.flatten().tolist()) for row in found.train.inputs})
    assert seen[0] < seen[1] < seen[2]
    small = splits_of(spec_of(TrainingSet(examples=50)), IMAGES, None).train
    chosen = nested_order(whole.train.targets)[:50].sort().values
    assert torch.equal(small.inputs, whole.train.inputs[chosen])
    assert torch.bincount(small.targets).max() - torch.bincount(small.targets).min() <= 1


def test_a_training_set_may_be_left_unaugmented() -> None:
    assert splits_of(spec_of(TrainingSet(augmented=False)), IMAGES, None).augmentations == ()


def test_one_augmentation_may_be_left_out() -> None:
    assert splits_of(spec_of(TrainingSet(without=("flip",))), IMAGES, None).augmentations == (PadCrop(padding=1),)
    nothing = TrainingSet(augmented=False, without=("flip",))
    assert splits_of(spec_of(nothing), IMAGES, None).augmentations == ()


def test_an_augmentation_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(RequestError, match=r"task images/small has no augmentation 'flop' to leave out.*'flip'"):
        splits_of(spec_of(TrainingSet(without=("flop",))), IMAGES, None)
    with pytest.raises(RequestError, match="task digits/mlp has no augmentation 'flip' to leave out; it has none"):
        splits_of(spec_of(TrainingSet(without=("flip",))), DIGITS, None)


def design_with(data: TrainingSet) -> Study:
    def design(task: Task, _: str) -> Design:
        return Design(arms=(Arm(name="part", recipe=task.recipe, data=data),), claims=(), seeds=1)

    return Study(name="parts", title="Parts", source="a test", design=design)


def test_steps_and_costs_are_counted_on_the_part() -> None:
    plan = make_plan(
        design_with(TrainingSet(examples=160)), IMAGES, "quick", execution=spec_of(TrainingSet()).execution
    )
    (arm,) = plan.design.arms
    assert plan.examples_of(arm) == 160
    assert plan.steps(arm) == 60
    assert plan.spec(arm, 0).data == TrainingSet(examples=160)


@pytest.mark.parametrize("examples", [0, 321])
def test_a_part_that_is_none_is_refused_before_any_run(examples: int) -> None:
    with pytest.raises(RequestError, match=f"'part' must be from 1 to the 320 training .*, got {examples}"):
        make_plan(
            design_with(TrainingSet(examples=examples)), IMAGES, "quick", execution=spec_of(TrainingSet()).execution
        )


def test_forgetting_is_measured_after_a_run_that_it_did_not_change(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    results: list[Result] = []
    for spec in (spec_of(TrainingSet(), "forgetting"), spec_of(TrainingSet())):
        results.append(execute(spec, store.run(spec), IMAGES, data_dir=None, environment={}, on_row=lambda _: None))
    watched, plain = results
    assert watched.accuracy == plain.accuracy
    metrics = watched.metrics
    assert {name: metrics[name] for name in plain.metrics} == plain.metrics
    curves = {name.partition("@")[0] for name in metrics if "@" in name}
    assert curves == {"replay", "online", "fresh", "plain", "batch_statistics"}
    for name in curves:
        assert len([key for key in metrics if key.startswith(f"{name}@")]) == 40
    replay, fresh = (np.array([metrics[f"{name}@{m:.2f}"] for m in (0.05, 0.55, 3.95)]) for name in ("replay", "fresh"))
    assert not np.array_equal(replay, fresh)
    assert np.isfinite(replay.astype(float)).all()
    forgotten, low, tau = (float(metrics[name] or 0.0) for name in ("forgotten", "tau_low", "tau"))
    assert 0.0 <= forgotten <= 4.0
    assert low <= tau


def test_unaugmented_the_fresh_and_the_plain_replay_are_the_replay(tmp_path: Path) -> None:
    spec = spec_of(TrainingSet(examples=160, augmented=False), "forgetting")
    found = execute(
        spec, Store(tmp_path, create=True).run(spec), IMAGES, data_dir=None, environment={}, on_row=lambda _: None
    ).metrics
    for key in (key for key in found if key.startswith("replay@")):
        others = [found[key.replace("replay", name)] for name in ("fresh", "plain")]
        assert others == [found[key]] * 2 or all(other is None or math.isnan(other) for other in others)
