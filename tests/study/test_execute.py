from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rebatch import draws
from rebatch.recipe import Epochs
from rebatch.study import execute as module
from rebatch.study.execute import execute
from rebatch.study.plan import RunSpec
from rebatch.study.store import Result, RunFolder, Store
from rebatch.tasks import TASKS
from rebatch.training import Checkpointer, Row, evaluate, train

TASK = TASKS["digits/mlp"]
SPEC = RunSpec(task=TASK.name, recipe=TASK.recipe.replace(budget=Epochs(1)), seed=3, evaluations=2)


def perform(folder: RunFolder, rows: list[Row] | None = None) -> Result:
    seen: list[Row] = [] if rows is None else rows
    return execute(SPEC, folder, TASK, data_dir=None, environment={"a": 1}, on_row=seen.append)


def comparable(result: Result | None) -> dict[str, Any]:
    assert result is not None
    return {name: getattr(result, name) for name in ("status", "steps", "accuracy", "test_loss", "correct")}


@pytest.fixture
def every_row_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Checkpointer", lambda path: Checkpointer(path, seconds=0.0))


def test_the_test_set_is_what_the_result_is_measured_on_and_the_seed_makes_the_model(tmp_path: Path) -> None:
    rows = list[Row]()
    result = perform(Store(tmp_path, create=True).begin(SPEC), rows)
    model, data = TASK.model(SPEC.seed), TASK.data(SPEC.seed)
    first = torch.from_numpy(draws.order(SPEC.seed, 0, 1024))[:32]
    loss = F.cross_entropy(model.train()(data.train.inputs[first]), data.train.targets[first])
    assert rows[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    model = TASK.model(SPEC.seed)  # the forward pass above moved the running statistics
    for _ in train(model, data, SPEC.recipe, seed=SPEC.seed, evaluations=2):
        pass
    test = evaluate(model, data.test)
    assert (result.accuracy, result.test_examples) == (test.accuracy, 517)
    assert result.hits().tolist() == test.correct.tolist()


def test_a_run_leaves_rows_a_result_and_no_checkpoint(tmp_path: Path, every_row_a_checkpoint: None) -> None:
    folder, rows = Store(tmp_path, create=True).begin(SPEC), list[Row]()
    result = perform(folder, rows)
    assert folder.rows() == rows
    assert folder.result() == result
    assert result.steps == rows[-1]["step"] == 32
    assert result.hits().mean() * 100 == pytest.approx(result.accuracy)
    assert result.environment["threads"] == 1
    assert not folder.checkpoint.exists()


@pytest.mark.parametrize("rows_before_the_kill", [1, 3, 16])
def test_a_run_killed_after_any_row_goes_on_to_the_same_numbers(
    rows_before_the_kill: int, tmp_path: Path, every_row_a_checkpoint: None
) -> None:
    undisturbed = Store(tmp_path / "a", create=True).begin(SPEC)
    expected = perform(undisturbed)
    assert len(undisturbed.rows()) == 16

    class Killed(BaseException):
        pass

    folder, seen = Store(tmp_path / "b", create=True).begin(SPEC), list[Row]()

    def on_row(row: Row) -> None:
        seen.append(row)
        if len(seen) == rows_before_the_kill:
            raise Killed

    with pytest.raises(Killed):
        execute(SPEC, folder, TASK, data_dir=None, environment={}, on_row=on_row)
    assert folder.result() is None
    result = perform(folder)
    assert comparable(result) == comparable(expected)
    assert folder.rows() == undisturbed.rows()


def test_a_run_killed_between_its_last_step_and_its_result_only_evaluates(
    tmp_path: Path, every_row_a_checkpoint: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store(tmp_path, create=True).begin(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda self, result: None)
        expected = perform(folder)
    assert folder.checkpoint.exists()
    again = list[Row]()
    assert comparable(perform(folder, again)) == comparable(expected)
    assert again == []
