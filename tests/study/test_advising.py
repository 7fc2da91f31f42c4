"""Advice measured on digits, from a batch far too small; its command."""

import json
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.recipe import Epochs
from rebatch.recipe_file import read_recipe, write_recipe
from rebatch.schedule import Constant
from rebatch.tasks import TASKS


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
