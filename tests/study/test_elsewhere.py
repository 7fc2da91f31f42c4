"""Runs that another engine holds, with threads for workers: asked for again, and shown as not yet done."""

from collections import deque
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from rich.progress import Progress

from rebatch.cli.progress import study_progress
from rebatch.execution import Execution
from rebatch.recipe import Steps
from rebatch.study.engine import Outcome, _Engine, _Factory, _Worker
from rebatch.study.plan import Arm, Design, Study, make_plan
from rebatch.study.store import Store
from rebatch.study.worker import Message
from rebatch.tasks import TASKS

DIGITS = TASKS["digits/mlp"]
ARM = Arm(name="only", recipe=DIGITS.recipe.replace(budget=Steps(40)))
STUDY = Study(name="s", title="", source="", design=lambda *_: Design(arms=(ARM,), claims=(), seeds=2, evaluations=1))
PLAN = make_plan(STUDY, DIGITS, "quick", execution=Execution())


def worker(act: Callable[[Connection], None]) -> _Worker:
    """One that does `act` instead of runs."""
    ours, theirs = Pipe()
    Thread(target=act, args=(theirs,), daemon=True).start()
    return _Worker(BaseProcess(), ours)


@pytest.mark.parametrize("silence", [0.02, 5.0])
def test_a_run_of_an_engine_that_died_is_taken_over_beside_a_long_one_of_ours(
    silence: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebatch.study.engine.POLL_SECONDS", 0.1)
    taken_over, in_time = Event(), []

    def long_one(pipe: Connection) -> None:
        pipe.recv()
        for step in range(round(5.0 / silence)):
            pipe.send(Message("steps", step))
            if taken_over.wait(silence):
                break
        in_time.append(taken_over.is_set())
        pipe.send(Message("done"))

    def beside_it(pipe: Connection) -> None:
        for kind in ("busy", "busy", "done"):
            pipe.recv()
            if kind == "done":
                taken_over.set()
            pipe.send(Message(kind))

    heard: list[str] = []
    specs, store, workers = PLAN.specs(), Store(tmp_path, create=True), [worker(long_one), worker(beside_it)]
    _Engine(
        store,
        DIGITS.name,
        None,
        workers,
        _Factory(1, {}),
        deque(specs),
        Outcome(PLAN),
        lambda spec, message: heard.append(f"{spec.seed} {message.kind}"),
    ).run()
    assert in_time == [True]
    assert sorted(each for each in heard if each != "0 steps") == ["0 done", "1 busy", "1 busy", "1 done"]


def test_a_run_in_another_engines_hands_is_not_shown_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    update = Progress.update

    def noting(bar: Progress, line: Any, **values: Any) -> None:
        shown.append(values["completed"])
        update(bar, line, **values)

    monkeypatch.setattr(Progress, "update", noting)
    first, second = PLAN.specs()
    with study_progress(PLAN, Store(tmp_path, create=True)) as on_progress:
        for spec, message in (
            (first, Message("steps", 10)),
            (second, Message("busy")),
            (first, Message("done")),
            (second, Message("busy")),
            (second, Message("done")),
        ):
            on_progress(spec, message)
    assert shown == [10, 10, 40, 40, 80]
