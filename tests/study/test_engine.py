"""The engine with real workers: kept, resumed after kill -9, shared, failing, refused."""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rebatch.study.store import Store
from study.processes import command, finish, numbers

STUDY = f"{Path(__file__).parent / 'small_study.py'}:small"


USERS_TASK = """
from rebatch.tasks import TASKS
import dataclasses, os

def build():
    {body}

mine = dataclasses.replace(TASKS["digits/mlp"], name="mine/mlp", build=build)
"""


OTHER_MODEL = """
from rebatch.recipe import Epochs
from rebatch.study.plan import Arm, Design, Study
from rebatch.tasks import TASKS

RECIPE = TASKS["digits/mlp"].recipe.replace(budget=Epochs(2))

def design(task, scale):
    arms = (Arm(name="own", recipe=RECIPE), Arm(name="plain", recipe=RECIPE, task="digits/mlp-plain"))
    return Design(arms=arms, claims=(), seeds=1, evaluations=1)

other = Study(name="other", title="", source="", design=design)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    return store, finish(STUDY, store, "--jobs", "2")


def test_all_runs_are_done_and_a_diverged_one_counts_at_chance(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, document = undisturbed
    assert document["runs"] == {"done": 4, "diverged": 2, "failed": 0, "reused": 0}
    arms = {arm["name"]: arm for arm in document["arms"]}
    assert arms["wild"]["diverged"] == 2
    assert arms["wild"]["accuracy"]["values"] == [10.0, 10.0]
    assert arms["small"]["accuracy"]["mean"] > 90
    assert (arms["small"]["batch_size"], arms["small"]["steps"], arms["small"]["n"]) == (32, 64, 2)
    assert {"study", "task", "scale", "arms", "claims", "runs"} <= document.keys()
    assert document["claims"][0].keys() >= {"id", "statement", "source", "verdict", "effect", "expected"}


def test_the_same_command_again_reuses_every_run(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    store, document = undisturbed
    before = numbers(store)
    again = finish(STUDY, store)
    assert again["runs"] == {"done": 4, "diverged": 2, "failed": 0, "reused": 6}
    assert again["arms"] == document["arms"]
    assert again["claims"] == document["claims"]
    assert numbers(store) == before


def test_an_arm_with_the_model_of_another_task_has_the_runs_of_that_task(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(OTHER_MODEL)
    store, study = tmp_path / "store", f"{tmp_path / 'study.py'}:other"
    done = finish(study, store, "--seeds", "1", "--jobs", "1")
    assert done["runs"] == {"done": 2, "diverged": 0, "failed": 0, "reused": 0}
    specs = [json.loads(path.read_text()) for path in store.glob("runs/*/spec.json")]
    assert sorted(spec["task"] for spec in specs) == ["digits/mlp", "digits/mlp-plain"]
    with_norm, plain = (arm["accuracy"]["mean"] for arm in done["arms"])
    assert with_norm != plain
    again = finish(study, store, "--seeds", "1", "--jobs", "1", "--task", "digits/mlp-plain")
    assert again["runs"]["reused"] == 1  # both arms are that task's own run
    assert [arm["accuracy"]["mean"] for arm in again["arms"]] == [plain, plain]


def test_a_log_counts_the_runs_of_the_arms_that_are_asked_for(tmp_path: Path) -> None:
    options = ("--arm", "small", "--seeds", "2", "--jobs", "1")
    done = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[:3] == [
        "small-digits-mlp-quick: 2 of 2 runs to do, 1 at a time",
        "1 of 2 runs finished",
        "2 of 2 runs finished",
    ]
    (plan,) = Store(tmp_path / "store").plans()
    assert "--seeds" in plan.command
    assert "--arm" not in plan.command  # it is the command for the whole plan


def test_more_seeds_run_only_what_is_missing(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert finish(STUDY, store, "--seeds", "1", "--jobs", "1")["runs"]["reused"] == 0
    assert finish(STUDY, store, "--seeds", "2", "--jobs", "1")["runs"]["reused"] == 3
    # One worker or two: the same numbers, bit for bit.
    assert numbers(store) == numbers(undisturbed[0])


def test_killed_at_any_moment_it_ends_with_the_same_numbers(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for patience in (1, 3):  # results to wait for before the kill
        process = subprocess.Popen(
            command(STUDY, store, "--jobs", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(numbers(store)) < patience and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = numbers(store)
    assert len(kept) >= 1
    expected = numbers(undisturbed[0])
    assert all(expected[run_id] == found for run_id, found in kept.items())
    document = finish(STUDY, store, "--jobs", "2")
    assert document["runs"]["reused"] == len(kept)
    assert numbers(store) == expected


def test_two_engines_on_one_store_share_the_work_and_do_no_run_twice(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, log = tmp_path / "store", tmp_path / "builds"
    body = f"open({str(log)!r}, 'a').write('built\\n'); return TASKS['digits/mlp'].build()"  # a run builds one model
    (tmp_path / "task.py").write_text(USERS_TASK.format(body=body))
    options = ("--jobs", "1", "--task", f"{tmp_path}/task.py:mine")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    engines = [subprocess.Popen(command(STUDY, store, *options), **pipes) for _ in range(2)]  # type: ignore[call-overload]
    outputs = [engine.communicate(timeout=120) for engine in engines]
    assert [engine.returncode for engine in engines] == [0, 0], outputs
    documents = [json.loads(out) for out, _ in outputs]
    assert documents[0]["arms"] == documents[1]["arms"] == undisturbed[1]["arms"]
    assert log.read_text().splitlines() == ["built"] * 6


def test_ctrl_c_stops_cleanly_and_keeps_what_is_done(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(STUDY, store, "--jobs", "1", "--seeds", "400"),  # far from done when it is stopped
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    while not numbers(store):
        time.sleep(0.01)
    # Python drops a signal that falls into a callback of the garbage collector: one presses again, as a user does.
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("rebatch: stopped; what was finished is kept")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ZeroDivisionError('my own bug')", r"ZeroDivisionError: my own bug \(.*task.py:6\), traceback in "),
        ("raise SystemExit(3)", r"SystemExit: 3 \(.*task.py:6\), traceback in "),
        ("os._exit(9)", "its process died with exit code 9"),
    ],
)
def test_a_run_that_fails_is_told_and_the_study_exits_with_1(body: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(USERS_TASK.format(body=body))
    store = tmp_path / "store"
    options = ("--task", f"{tmp_path}/task.py:mine", "--seeds", "1", "--jobs", "1")
    done = subprocess.run(command(STUDY, store, *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert json.loads(done.stdout)["runs"] == {"done": 0, "diverged": 0, "failed": 3, "reused": 0}
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(f"3 runs failed, the first with: {reason}", last)
    assert "Traceback" not in done.stderr
    for told in re.findall(r"traceback in (\S+/error.txt)", last):
        assert "in build" in Path(told).read_text()


def test_a_full_disk_stops_the_study_in_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(USERS_TASK.format(body="raise OSError(28, 'No space left on device', 'rows')"))
    options = ("--task", f"{tmp_path}/task.py:mine", "--jobs", "1")
    done = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr.strip().splitlines()[-1]
    assert "finished runs are kept" in done.stderr.strip().splitlines()[-1]


def test_a_wrong_request_of_every_run_stops_the_study_with_2(tmp_path: Path) -> None:
    options = ("--task", "mnist/f1", "--data-dir", str(tmp_path / "absent"), "--precision", "float32")
    done = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "rebatch data fetch mnist" in done.stderr.strip().splitlines()[-1]


def test_what_a_users_model_prints_stays_out_of_the_json(tmp_path: Path) -> None:
    body = "print('hello'); os.system('echo world'); return TASKS['digits/mlp'].build()"
    (tmp_path / "task.py").write_text(USERS_TASK.format(body=body) + "print('read')")
    document = finish(STUDY, tmp_path / "store", "--task", f"{tmp_path}/task.py:mine", "--seeds", "1", "--jobs", "1")
    assert document["runs"]["done"] == 2


WRONG = [
    ("return TASKS['digits/mlp'].build()", "train=1000", "promises splits of (1000, 256, 517) examples"),
    (
        "open(__file__, 'a').write('# edited'); return TASKS['digits/mlp'].build()",
        "train=1024",
        "changed while the study ran",
    ),
]


@pytest.mark.parametrize(("body", "change", "message"), WRONG)
def test_a_task_that_is_not_what_was_planned_stops_the_study_at_once_with_2(
    body: str, change: str, message: str, tmp_path: Path
) -> None:
    text = USERS_TASK.format(body=body) + f"mine = dataclasses.replace(mine, {change})\n"
    (tmp_path / "task.py").write_text(text)
    options = ("--task", f"{tmp_path}/task.py:mine", "--jobs", "1")
    done = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(numbers(tmp_path / "store")) <= 1
