"""The examples that the README points to do what they say."""

import json
import sys
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.tasks import TASKS

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_task_of_ones_own_runs_under_a_built_in_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, store = f"{EXAMPLES / 'my_task.py'}:tumors", str(tmp_path / "store")
    options = ["--task", task, "--seeds", "2", "--jobs", "1", "--store", store, "--json"]
    assert run(["study", "run", "hoffer-gap", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "tumors/mlp"
    assert document["runs"]["done"] == 12
    assert document["arms"][1]["batch_size"] == 256
    assert document["arms"][0]["accuracy"]["mean"] > 90


def test_a_study_of_ones_own_runs_on_a_built_in_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, store = f"{EXAMPLES / 'my_study.py'}:warmup", str(tmp_path / "store")
    assert run(["study", "run", study, "--task", "digits", "--seeds", "2", "--jobs", "1", "--store", store]) == 0
    capsys.readouterr()
    assert run(["study", "show", store, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [arm["name"] for arm in document["arms"]] == ["linear", "linear+warmup"]
    assert document["claims"][0]["id"] == "warmup"


TUNED = {
    "digits/mlp": "digits-reference/tuning.json",
    "digits/mlp-plain": "digits-reference/tuning-plain.json",
    "cifar10/proxy": "proxy-reference/tuning.json",
}


@pytest.mark.parametrize("task", TUNED)
def test_a_reference_rate_is_what_tuning_on_the_validation_split_chose(task: str) -> None:
    kept = json.loads((EXAMPLES.parent / "results" / TUNED[task]).read_text())
    assert TASKS[task].recipe.optimizer.lr == kept["chosen"] == max(kept["grid"], key=lambda row: row["mean"])["lr"]
    assert min(kept["seeds"]) >= 1000  # studies count their seeds from 0


def test_tuning_again_gives_the_kept_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.loads((EXAMPLES.parent / "results" / TUNED["digits/mlp"]).read_text())
    monkeypatch.syspath_prepend(str(EXAMPLES))
    tune = __import__("tune_reference")
    kept_value = next(row["values"][0] for row in kept["grid"] if row["lr"] == 0.05)
    assert tune.validation_accuracy(0.05, 1000) == pytest.approx(kept_value, abs=1.0)
    sys.modules.pop("tune_reference")
