"""The engine with real workers: kept, resumed after kill -9, shared, failing, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

STUDY = f"{Path(__file__).parent / 'small_study.py'}:small"


def command(store: Path, *options: str, study: str = STUDY) -> list[str]:
    task = [] if "--task" in options else ["--task", "digits"]
    return [sys.executable, "-m", "rebatch", "study", "run", study, *task, "--store", str(store), "--json", *options]


def finish(store: Path, *options: str, study: str = STUDY) -> dict[str, Any]:
    done = subprocess.run(command(store, *options, study=study), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def numbers(store: Path) -> dict[str, Any]:
    """All that runs measured, by run: rows, and results without time and environment."""
    found = {}
    for result in store.glob("runs/*/result.json"):
        kept = json.loads(result.read_text())
        del kept["seconds"], kept["environment"]
        found[result.parent.name] = (kept, (result.parent / "rows.jsonl").read_text())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    return store, finish(store, "--jobs", "2")


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
    again = finish(store)
    assert again["runs"] == {"done": 4, "diverged": 2, "failed": 0, "reused": 6}
    assert again["arms"] == document["arms"]
    assert again["claims"] == document["claims"]
    assert numbers(store) == before


def test_more_seeds_run_only_what_is_missing(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert finish(store, "--seeds", "1", "--jobs", "1")["runs"]["reused"] == 0
    assert finish(store, "--seeds", "2", "--jobs", "1")["runs"]["reused"] == 3
    # One worker or two: the same numbers, bit for bit.
    assert numbers(store) == numbers(undisturbed[0])


def test_killed_at_any_moment_it_ends_with_the_same_numbers(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for patience in (1, 3):  # results to wait for before the kill
        process = subprocess.Popen(
            command(store, "--jobs", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
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
    document = finish(store, "--jobs", "2")
    assert document["runs"]["reused"] == len(kept)
    assert numbers(store) == expected


def test_two_engines_on_one_store_share_the_work(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    engines = [subprocess.Popen(command(store, "--jobs", "1"), **pipes) for _ in range(2)]  # type: ignore[call-overload]
    outputs = [engine.communicate(timeout=120) for engine in engines]
    assert [engine.returncode for engine in engines] == [0, 0], outputs
    documents = [json.loads(out) for out, _ in outputs]
    assert documents[0]["arms"] == documents[1]["arms"]
    assert numbers(store) == numbers(undisturbed[0])


def test_ctrl_c_stops_cleanly_and_keeps_what_is_done(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(store, "--jobs", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not numbers(store):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("rebatch: stopped; what was finished is kept")
    assert "Traceback" not in err


BROKEN_TASK = """
from rebatch.tasks import TASKS, Task
import dataclasses, os

def build():
    {body}

broken = dataclasses.replace(TASKS["digits/mlp"], name="broken/mlp", build=build)
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ZeroDivisionError('my own bug')", "ZeroDivisionError: my own bug"),
        ("os._exit(9)", "its process died with exit code 9"),
    ],
)
def test_a_run_that_fails_is_told_and_the_study_exits_with_1(body: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(BROKEN_TASK.format(body=body))
    store = tmp_path / "store"
    options = ("--task", f"{tmp_path}/task.py:broken", "--seeds", "1", "--jobs", "1")
    done = subprocess.run(command(store, *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert json.loads(done.stdout)["runs"] == {"done": 0, "diverged": 0, "failed": 3, "reused": 0}
    assert f"3 runs failed, the first with: {reason}" in done.stderr.strip().splitlines()[-1]


def test_a_full_disk_stops_the_study_in_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(BROKEN_TASK.format(body="raise OSError(28, 'No space left on device', 'rows')"))
    options = ("--task", f"{tmp_path}/task.py:broken", "--jobs", "1")
    done = subprocess.run(command(tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr.strip().splitlines()[-1]
    assert "finished runs are kept" in done.stderr.strip().splitlines()[-1]


def test_a_wrong_request_of_every_run_stops_the_study_with_2(tmp_path: Path) -> None:
    options = ("--task", "mnist/f1", "--data-dir", str(tmp_path / "absent"), "--precision", "float32")
    done = subprocess.run(command(tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "rebatch data fetch mnist" in done.stderr.strip().splitlines()[-1]
