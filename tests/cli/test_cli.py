"""The command line as its user meets it: output, exit status, one line for what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rebatch.cli.main import run, spread
from rebatch.recipe import Epochs, Steps, read_recipe, write_recipe
from rebatch.tasks import TASKS

STUDY = f"{Path(__file__).parents[1] / 'study' / 'small_study.py'}:small"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    write_recipe(TASKS["mnist/f1"].recipe, path)
    return path


def test_transfer_prints_what_changed_by_which_rule_why_and_what_it_costs(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["transfer", str(recipe), "--batch-size", "4096", "--rules", "hoffer", "--examples", "55000"]) == 0
    out = capsys.readouterr().out
    for part in ("optimizer.lr", "0.1", "0.56569", "sqrt_lr", "covariance", "ghost_batch_size", "50 epochs"):
        assert part in out
    assert "21,500 steps" in out
    assert "x 30.71" in out  # not 32: with 14 steps an epoch the last batch is partial


def test_transfer_writes_a_file_that_train_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, moved = tmp_path / "tuned.toml", tmp_path / "moved.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(budget=Epochs(1)), tuned)
    options = ["--rules", "hoffer", "--task", "digits"]
    assert run(["transfer", str(tuned), "--batch-size", "512", *options, "--output", str(moved)]) == 0
    assert read_recipe(moved).budget == Steps(32)
    capsys.readouterr()
    assert run(["train", str(moved), "--task", "digits", "--json", "--store", str(tmp_path / "store")]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["status"], first["steps"]) == ("done", 32)
    assert first["accuracy"] > 80
    assert first["rows"][-1]["step"] == 32
    # The store has the result; the same command shows it.
    assert run(["train", str(moved), "--task", "digits", "--json", "--store", str(tmp_path / "store")]) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_train_shows_progress_loss_accuracy_and_examples_per_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(budget=Epochs(1)), path)
    assert run(["train", str(path), "--task", "digits"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("test accuracy ")
    assert "examples/s" in err
    assert "validation" in err
    assert "loss" in err


def test_transfer_json_is_one_document(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transfer", str(recipe), "--batch-size", "4096", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"]["optimizer"]["lr"] == pytest.approx(3.2)
    assert document["changes"][1] == {
        "field": "optimizer.lr",
        "before": 0.1,
        "after": pytest.approx(3.2),
        "rule": "linear_lr",
        "why": document["changes"][1]["why"],
    }
    assert document["price"]["steps_factor"] == pytest.approx(1 / 32)
    assert len(document["warnings"]) == 1


def test_rules_may_follow_one_option_with_spaces_or_commas(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--batch-size", "256", "--json"]
    for rules in (["--rules", "sqrt_lr", "ghost_batch"], ["--rules", "sqrt_lr,ghost_batch"]):
        assert run(["transfer", *rules, str(recipe), *shared]) == 0
        assert json.loads(capsys.readouterr().out)["rules"] == ["sqrt_lr", "ghost_batch"]
    assert spread(["--rules", "a", "b", "--json", "c"], "--rules") == ["--rules", "a", "--rules", "b", "--json", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transfer", "RECIPE", "--batch-size", "256", "--rules", "sqr_lr"], "did you mean 'sqrt_lr'?"),
        (["transfer", "RECIPE", "--batch-size", "256", "--rules", "linear", "hoffer"], "both set 'optimizer.lr'"),
        (["transfer", "RECIPE", "--batch-size", "256", "--rules", "same_steps"], "needs the number of training"),
        (["transfer", "RECIPE", "--batch-size", "2048", "--examples", "1024"], "larger than the training set of 1024"),
        (["transfer", "RECIPE", "--batch-size", "256", "--task", "digits", "--examples", "9"], "use one of them"),
        (["transfer", "RECIPE"], "--batch-size"),
        (["transfer", "RECIPE", "--batch-size", "many"], "many"),
        (["transfer", "absent.toml", "--batch-size", "256"], "cannot read the recipe absent.toml"),
        (["train", "RECIPE", "--task", "digit"], "no task named 'digit'; did you mean 'digits/mlp'?"),
        (["train", "RECIPE", "--task", "absent.py:task"], "no file absent.py"),
        (["train", "RECIPE", "--task", "digits", "--precision", "half"], "--precision 'half' is unknown"),
        (["train", "RECIPE", "--task", "digits", "--micro-batch-size", "64"], "plain batch norm (2) would see"),
        (["train", "RECIPE", "--task", "mnist/f1", "--data-dir", "absent"], "rebatch data fetch mnist"),
        (["study", "run", "hofer-gap"], "no study named 'hofer-gap'; did you mean 'hoffer-gap'?"),
        (["study", "run", "hoffer-gap", "--scale", "qick"], "did you mean 'quick'?"),
        (["study", "show", "absent"], "absent is not a store of runs"),
        (["report", "absent"], "absent is not a store of runs"),
        (["data", "fetch", "mnits"], "did you mean 'mnist'?"),
        (["stduy"], "stduy"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([str(recipe) if argument == "RECIPE" else argument for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rebatch: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_and_transfer_start_without_torch(recipe: Path) -> None:
    for arguments in (
        ["--help"],
        ["transfer", str(recipe), "--batch-size", "256", "--task", "mnist"],
        ["data", "list"],
    ):
        code = f"import sys; from rebatch.cli.main import run; s = run({arguments!r}); print(s, 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 False"


def test_study_list_names_studies_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "list"]) == 0
    assert "hoffer-gap" in capsys.readouterr().out
    assert run(["study", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["studies"][0]["name"] == "hoffer-gap"


def test_a_study_is_run_shown_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "store")
    assert run(["study", "run", STUDY, "--task", "digits", "--store", store, "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "small beats large" in out
    assert "gap closed" in out
    assert f"report: {store}/report/index.html" in out.replace("\n", "")
    assert "6 of 6 runs to do, 1 at a time" in err
    assert run(["study", "show", store]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 diverged" in shown
    assert run(["study", "show", store, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == {"done": 4, "diverged": 2, "failed": 0, "reused": 6}
    assert run(["report", store, "--output", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "index.html").stat().st_size > 1_000_000  # plotly is inside
