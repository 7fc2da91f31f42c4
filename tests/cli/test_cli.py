"""The command line as its user meets it: output, exit status, one line for what is wrong."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rebatch
from rebatch.cli.main import run, spread
from rebatch.cli.train_run import _Clock
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Steps
from rebatch.recipe_file import from_table, loads_recipe, read_recipe, write_recipe
from rebatch.study.find import find_study
from rebatch.study.plan import make_plan
from rebatch.study.store import Result, Store
from rebatch.tasks import TASKS

STUDY = f"{Path(__file__).parents[1] / 'study' / 'small_study.py'}:small"
TOO_MANY = f"--{{}} must be at most {4 * (os.cpu_count() or 1)}, 4 for each of this machine's"


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
    assert run(["train", str(moved), "--task", "digits", "--store", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out.startswith("already done: test accuracy")


@pytest.mark.parametrize("name", TASKS)
def test_the_recipe_of_a_task_is_a_file_that_transfer_takes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, path = TASKS[name], tmp_path / "recipe.toml"
    for regime, recipe in ((None, task.recipe), *task.regimes.items()):
        command = ["recipe", "--task", name, *(["--regime", regime] if regime else [])]
        assert run(command) == 0
        printed = capsys.readouterr().out
        assert loads_recipe(printed) == recipe
        assert run([*command, "--output", str(path)]) == 0
        assert capsys.readouterr() == ("", f"written to {path}\n")
        assert path.read_text() == printed
        assert read_recipe(path) == recipe
        assert run([*command, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert from_table(document.pop("recipe")) == recipe
        assert document == {"task": name, "regime": regime, "regimes": list(task.regimes)}
        batch_size = 2 * recipe.batch_size
        assert run(["transfer", str(path), "--batch-size", str(batch_size), "--task", name, "--json"]) == 0
        moved = from_table(json.loads(capsys.readouterr().out)["recipe"])
        assert (moved.batch_size, moved.tuned) == (batch_size, recipe)


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
    assert run(["transfer", str(recipe), "--batch-size", "4096", "--rules", "linear", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"]["optimizer"]["lr"] == pytest.approx(3.2)
    assert document["changes"][1] == {
        "field": "optimizer.lr",
        "before": 0.1,
        "after": pytest.approx(3.2),
        "rule": "linear_lr",
        "why": document["changes"][1]["why"],
        "evidence": "strong",
        "source": "Krizhevsky 2014; Goyal et al. 2017",
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
        (["recipe"], "--task"),
        (["recipe", "--task", "cifar10/c1", "--regime", "coed"], "has no regime 'coed', it has code; leave it out"),
        (["recipe", "--task", "mnist/f1", "--regime", "code"], "has no regime 'code', it has none; leave it out"),
        (["recipe", "--task", "mnist/f1", "--output", "."], "--output must name a file, got the directory ."),
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
        (["train", "RECIPE", "--task", "digits", "--threads", "100000"], TOO_MANY.format("threads")),
        (["advise", "--task", "digits", "--threads", "100000"], TOO_MANY.format("threads")),
        (["study", "run", "hoffer-gap", "--threads", "100000"], TOO_MANY.format("threads")),
        (["study", "run", "hoffer-gap", "--jobs", "100000"], TOO_MANY.format("jobs")),
        (["stduy"], "stduy"),
        (["train", "RECIPE", "--task", "digits", "--data-dir", "RECIPE"], "recipe.toml is a file, not a folder"),
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
        ["recipe", "--task", "cifar10/c1", "--regime", "code"],
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
    assert "4 runs done, 2 diverged, 0 failed, 0 reused" in out
    assert f"report: {store}/report/index.html" in out.replace("\n", "")
    assert "6 of 6 runs to do, 1 at a time" in err
    assert "5 of 6 runs finished\n6 of 6 runs finished\n" in err  # a log shows that it lives
    assert run(["study", "show", store]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 diverged" in shown
    assert "reused" not in shown
    assert run(["study", "show", store, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == {"done": 4, "diverged": 2, "failed": 0, "reused": 6}
    assert run(["report", store, "--output", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "index.html").stat().st_size > 1_000_000  # plotly is inside


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose path looks like markup."""
    store = tmp_path_factory.mktemp("c[red]") / "s[/x] :smile:"
    assert run(["study", "run", STUDY, "--task", "digits", "--store", str(store), "--jobs", "2"]) == 0
    return store


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "c[red]" / finished.name)


def again(store: Path, *options: str) -> int:
    return run(["study", "run", STUDY, "--task", "digits", "--store", str(store), *options])


def test_text_and_paths_of_a_user_are_shown_as_they_are(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = next(store.glob("plans/*.json"))
    plan.write_text(plan.read_text().replace("small beats large", "[/] :smile: [red]wins"))
    assert run(["study", "show", str(store)]) == 0
    assert "[/] :smile: [red]wins" in capsys.readouterr().out
    assert run(["report", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}/report/index.html\n"


def test_a_complete_store_on_a_full_or_read_only_disk_still_shows_its_table(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: int) -> None:
        raise OSError(30, "Read-only file system")

    before = sorted(store.rglob("*"))
    monkeypatch.setattr(os, "fsync", refused)
    assert again(store) == 1
    out, err = capsys.readouterr()
    assert "small beats large" in out
    assert "all 6 runs are in the store" in err
    last = err.splitlines()[-1]
    assert f"cannot be written (Read-only file system: {store}/report/index.html); all runs are kept in" in last
    assert again(store, "--json") == 1
    assert json.loads(capsys.readouterr().out)["runs"]["reused"] == 6
    assert sorted(store.rglob("*")) == before


def test_an_unfinished_study_says_how_many_runs_are_missing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(store.glob("runs/*/result.json")).unlink()
    assert run(["study", "show", str(store)]) == 0
    assert "1 of 6 missing" in capsys.readouterr().out


@pytest.mark.parametrize("precision", [["--precision", "float32"], []])
def test_missing_data_are_told_before_anything_is_announced_or_written(
    precision: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "run", "hoffer-gap", "--task", "mnist/f1", *precision]
    assert run([*command, "--data-dir", str(tmp_path / "data"), "--store", str(tmp_path / "store")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("rebatch: mnist is not there: no file ")
    assert list(tmp_path.iterdir()) == []


def test_a_study_whose_runs_are_all_there_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, root = TASKS["mnist/f1"], tmp_path / "store"
    plan = make_plan(find_study("hoffer-gap"), task, "quick", execution=Execution(), seeds=1)
    store = Store(root, create=True)
    store.save_plan(plan)
    command = ["study", "run", "hoffer-gap", "--task", "mnist/f1", "--seeds", "1", "--store", str(root)]
    command += ["--data-dir", str(tmp_path / "data")]
    specs = plan.specs()
    for spec in specs[1:]:
        store.begin(spec).finish(Result(status="done", steps=1, accuracy=98.0))
    assert run(command) == 2  # one is missing
    assert "runs to do" not in capsys.readouterr().err
    store.begin(specs[0]).finish(Result(status="done", steps=1, accuracy=98.0))
    assert run(command) == 0
    assert "all 6 runs are in the store" in capsys.readouterr().err


def test_fewer_seeds_than_before_are_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(store, "--seeds", "1") == 0
    assert "seeds: 1 instead of 2; 3 finished runs are kept but not shown (--seeds 2)" in capsys.readouterr().err


def test_the_recorded_command_can_be_run_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["study", "run", STUDY, "--task", "digits", "--store", str(store), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/rebatch", *arguments])
    assert run(arguments) == 0
    document = json.loads(next(store.glob("plans/*.json")).read_text())
    assert shlex.split(document["command"]) == ["rebatch", *arguments]


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_result_that_cannot_be_shown_is_one_line(store: Path, json_option: list[str]) -> None:
    show = [sys.executable, "-m", "rebatch", "study", "show", str(store), *json_option]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(show, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "rebatch: cannot write the result to standard output: No space left on device\n"


def test_a_refused_request_leaves_no_store_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from rebatch.study.plan import Study\nmine = Study('mine', '', '', lambda *_: None)"
    )
    assert run(["study", "run", f"{tmp_path}/mine.py:mine", "--store", str(tmp_path / "store")]) == 2
    assert "must return a Design, got None" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("arguments", [[], ["study"], ["data"]])
def test_without_a_command_the_help_is_printed_as_it_is_meant(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out.startswith(" ".join(["Usage: rebatch", *arguments]))
    assert out.count("\n") > 5
    assert err == ""


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"rebatch {rebatch.__version__}\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "stopped; nothing is kept without --store"),
        (
            ["--store", "STORE"],
            "stopped; the same command goes on from its last checkpoint (one a minute), else it starts over",
        ),
    ],
)
def test_a_stopped_training_promises_only_what_is_kept(
    options: list[str],
    line: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rebatch.cli.train_run.execute", stopped)
    assert run(["train", str(recipe), "--task", "digits", *options]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"rebatch: {line}"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["measure", "noise-scale"], "stopped; nothing is kept"),
        (["advise"], "stopped; nothing is kept"),
        (["study", "run", "hoffer-gap"], "stopped; what was finished is kept, the same command goes on from here"),
    ],
)
def test_a_stopped_command_promises_only_what_is_kept(
    command: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rebatch.tasks.find_task", stopped)
    assert run([*command, "--task", "digits"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"rebatch: {line}"


TASK = """
import dataclasses
from torch import nn
from rebatch.tasks import TASKS

class Net(nn.Linear):
    def forward(self, x):
        print("hello")
        {body}

mine = dataclasses.replace(TASKS["digits/mlp"], build=lambda: Net(64, 10))
"""


def trained(body: str, tmp_path: Path, *options: str) -> int:
    path = tmp_path / "short.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(budget=Steps(3)), path)
    (tmp_path / "mine.py").write_text(TASK.format(body=body))
    return run(["train", str(path), "--task", f"{tmp_path}/mine.py:mine", *options])


def test_what_a_users_model_raises_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("raise KeyError('mask')", tmp_path) == 1
    line = f"rebatch: KeyError: 'mask' ({tmp_path}/mine.py:9)"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert trained("raise KeyError('mask')", tmp_path, "--store", str(tmp_path / "store")) == 1
    told, _, file = capsys.readouterr().err.splitlines()[-1].partition(", traceback in ")
    assert told == line
    assert "in forward" in Path(file).read_text()


def test_what_a_users_model_prints_stays_out_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("return super().forward(x.flatten(1))", tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["steps"] == 3
    assert "hello" in err


def test_a_resumed_run_counts_only_the_examples_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    clock = _Clock(seen=1000)
    assert [clock.rate(1200), clock.rate(1250)] == [100.0, 50.0]


def test_the_recipe_that_transfer_prints_can_be_read_again(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transfer", str(recipe), "--batch-size", "256"]) == 0
    out = capsys.readouterr().out
    assert loads_recipe(out[out.index("batch_size = 256") :]).tuned == TASKS["mnist/f1"].recipe


def test_what_the_readme_says_transfer_prints_is_what_it_prints(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    options = ["--batch-size", "4096", "--rules", "hoffer", "--task", "mnist/f1", "--output", str(tmp_path / "l.toml")]
    assert run(["transfer", str(recipe), *options]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > 8
    assert all(line in readme for line in lines)


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", ["transfer RECIPE --batch-size 4096 --rules linear", "study show STORE"])
def test_a_narrow_terminal_breaks_no_word_and_no_interval(
    command: str,
    columns: int,
    recipe: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [{"RECIPE": str(recipe), "STORE": str(store)}.get(word, word) for word in command.split()]
    assert run(arguments) == 0
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(arguments) == 0
    narrow = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)  # bold, green
    assert narrow.count("\n") > wide.count("\n")
    assert set(narrow.split()) == set(wide.split())
    interval = r"[-+\d.]+ \[[^\]\n]*\]"
    assert re.findall(interval, narrow) == re.findall(interval, wide)
