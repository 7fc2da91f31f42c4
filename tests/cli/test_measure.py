"""`rebatch measure` as its user meets it."""

import json
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.cli.measure import SENTENCES
from rebatch.recipe import Epochs
from rebatch.recipe_file import write_recipe
from rebatch.tasks import TASKS


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(budget=Epochs(2)), path)
    return str(path)


def test_limits_are_printed_with_what_they_mean(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "limits", "--task", "digits", "--recipe", short]) == 0
    out = capsys.readouterr().out
    for part in ("learning rate (of the mean loss)", "0.025, at batch size 32, step 32", "branches break at", "epoch"):
        assert part in out
    assert out.splitlines()[-1] in SENTENCES.values()


def test_limits_as_one_json_document(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "limits", "--task", "digits", "--recipe", short, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["task"], found["lr"], found["verdict"] in SENTENCES) == ("digits/mlp", 0.025, True)
    assert found["breaks"]["low"] / found["lr"] == pytest.approx(found["room"])


def test_a_batch_too_large_to_see_forgetting_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(batch_size=512), path)
    assert run(["measure", "limits", "--task", "digits", "--recipe", str(path)]) == 2
    assert "got 2 of batch_size 512; use a batch size of at most 128" in capsys.readouterr().err
