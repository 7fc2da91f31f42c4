"""Advice measured on digits, from a batch far too small; its command."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rebatch import RequestError, transfer
from rebatch.advice import Cut, weigh
from rebatch.cli.main import run
from rebatch.critical_batch import fit_critical_batch_size
from rebatch.recipe import Epochs, Steps
from rebatch.recipe_file import read_recipe, write_recipe
from rebatch.schedule import Constant
from rebatch.study.advising import Advised, _relative_steps, measure_advice, transferred
from rebatch.study.branch import Branch
from rebatch.study.capacity_worker import Workload
from rebatch.study.critical_batch import MeasuredCriticalBatch
from rebatch.tasks import TASKS


def test_another_rate_at_todays_batch_size_is_a_recipe_too() -> None:
    recipe = TASKS["digits/mlp"].recipe
    size, lr = recipe.batch_size, recipe.optimizer.lr
    branches = tuple(Branch(size, 4 * lr, seed, 25.0) for seed in range(2))
    moment = MeasuredCriticalBatch(0, lr, 2.3, 1.0, 100, (100.0, 100.0), branches, None, None)
    ones = np.ones(400)
    advice = weigh(
        {size: 160 * ones, 512: 150 * ones},
        {size: ones, 512: 9 * ones},
        {size: Cut(size, 1), 512: Cut(512, 1)},
        size,
        640,
    )
    moved = transferred(recipe, advice, [moment], 1024)
    assert moved.recipe.optimizer.lr == pytest.approx(4 * lr)
    assert moved.recipe.budget == Steps(160)
    assert [change.field for change in moved.changes] == ["optimizer.lr", "budget"]


def test_a_recipe_that_was_transferred_moves_from_where_it_is() -> None:
    small = TASKS["digits/mlp"].recipe
    recipe = transfer(small, batch_size=128, rules=["sqrt_lr", "same_epochs"]).recipe
    branches = tuple(Branch(256, recipe.optimizer.lr, seed, 25.0) for seed in range(2))
    moment = MeasuredCriticalBatch(0, recipe.optimizer.lr, 2.3, 1.0, 100, (100.0, 100.0), branches, None, None)
    ones = np.ones(400)
    sizes = {128: 160 * ones, 256: 100 * ones}
    advice = weigh(sizes, {128: ones, 256: ones}, {128: Cut(128, 1), 256: Cut(256, 1)}, 128, 160)
    assert transferred(recipe, advice, [moment], 1024).recipe.optimizer.lr == pytest.approx(recipe.optimizer.lr)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    recipe = TASKS["digits/mlp"].recipe.with_lr(0.004).replace(batch_size=4, schedule=Constant(), budget=Epochs(1))
    write_recipe(recipe, tmp_path / "tiny.toml")
    return tmp_path / "tiny.toml"


def test_a_batch_far_too_small_is_told_to_grow(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tiny.parent / "new.toml"
    options = ["--task", "digits", "--recipe", str(tiny), "--threads", "1", "--output", str(output)]
    assert run(["advise", *options, "--seeds", "1"]) == 0
    captured = capsys.readouterr()
    assert "branches at batch sizes 4, 16, " in captured.err
    lines = captured.out.splitlines()
    assert lines[0].split()[:2] == ["batch", "size"]
    assert "today" in lines[1]
    # The machine may be noisy, but not by the factor of some tens that lies between steps of 4 and of 64 examples.
    assert any(line.startswith("Use batch size ") for line in lines)
    assert any(line.startswith("leans on: steps were counted at constant rates") for line in lines)
    moved = read_recipe(output)
    assert moved.batch_size >= 16
    assert moved.tuned == read_recipe(tiny)


def test_advice_as_one_json_document(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["advise", "--task", "digits", "--recipe", str(tiny), "--threads", "1", "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["advice"]["today"]["batch_size"] == 4
    assert found["recipe"]["batch_size"] == found["advice"]["best"]["batch_size"]
    assert {moment["reference_steps"] for moment in found["moments"]} == {256}
    assert found["capacity"]["plain_batch_norm"] is True


def test_a_small_batch_that_takes_many_steps_is_counted_with_all_of_them() -> None:
    """S = 50 (1 + (100/B)^1.4)^(1/1.4): a look from close by must not cut them at the patience of today's size."""
    law = {size: 50 * (1 + (100 / size) ** 1.4) ** (1 / 1.4) for size in (4, 8, 16, 64)}
    branches = tuple(Branch(size, 0.1, seed, steps) for size, steps in law.items() for seed in range(3))
    fit = fit_critical_batch_size([each.batch_size for each in branches], [each.steps for each in branches])
    again = tuple(Branch(8, 0.1, seed, law[8]) for seed in range(9))
    moment = MeasuredCriticalBatch(0, 0.1, 2.3, 1.0, 128, (law[64],) * 3, branches, fit, None, again=again)
    drawn = _relative_steps(moment, [4, 8, 64], seed=0)
    assert np.median(drawn, axis=0) == pytest.approx([law[4] / law[64], law[8] / law[64], 1.0], rel=0.01)


@pytest.mark.parametrize("compared", [True, False])
def test_an_output_is_written_or_said_not_to_be(
    compared: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ones = np.ones(400)
    cuts = {4: Cut(4, 1), 8: Cut(8, 1)}
    stay = weigh({4: 100 * ones, 8: 100 * ones}, {4: ones, 8: 3 * ones}, cuts, 4, 100)
    assert stay.answer == "stay"
    capacity: Any = SimpleNamespace(full_speed=64)
    found = Advised(capacity, (), stay if compared else None, None, ("nothing was reached",))
    monkeypatch.setattr("rebatch.study.advising.measure_advice", lambda *_, **__: found)
    output = tiny.parent / "new.toml"
    assert run(["advise", "--task", "digits", "--recipe", str(tiny), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert output.exists() == compared
    if compared:
        assert read_recipe(output) == read_recipe(tiny)
        assert f"written to {output}, as it is" in told.err
        assert "leans on: nothing was reached" in told.out
    else:
        assert f"nothing is written to {output}" in told.err
        assert told.out.startswith("I don't know, because nothing was reached.\nit would change with")


def test_advice_is_about_one_batch_size() -> None:
    recipe = TASKS["digits/mlp"].recipe.replace(batch_schedule=((0.5, 2.0),))
    task = TASKS["digits/mlp"]
    with pytest.raises(RequestError, match="advice is about one batch size, and batch_schedule has several"):
        measure_advice(task, task.data(0), Workload("digits/mlp", recipe))
