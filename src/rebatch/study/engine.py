"""Does the runs of a plan that are missing, side by side, and keeps each as it ends."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rebatch.errors import RequestError, RunError
from rebatch.study.choosing import choose, with_candidates
from rebatch.study.environment import environment
from rebatch.study.plan import Plan, RunSpec
from rebatch.study.store import Store
from rebatch.study.worker import Job, Message, work

# How often to look whether another engine has finished a run that we need too.
POLL_SECONDS = 0.5

OnProgress = Callable[[RunSpec, Message], None]


@dataclass
class Outcome:
    """What an engine did: the plan with its choices made, how many runs were there before, which failed and why."""

    plan: Plan
    reused: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    spec: RunSpec | None = None


def run_plan(
    plan: Plan,
    store: Store,
    *,
    task: str,
    jobs: int = 1,
    threads: int = 1,
    data_dir: Path | None = None,
    arms: Collection[str] | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Outcome:
    """Do the missing runs of `plan`, or of some of its `arms`, in `jobs` processes of `threads` threads each.

    An arm that is chosen from candidates has them run with it.
    A run that another engine holds is waited for and taken over if that engine dies. A run that fails is noted and the
    others go on. Arms that wait for the best of their candidates run after those. KeyboardInterrupt stops the workers;
    finished runs are kept and unfinished ones resume.

    Raises:
        RequestError: a run could not start because the request was wrong.
        RunError: an error that every run would meet, such as a full disk.
    """
    outcome = Outcome(choose(plan, store))
    outcome.reused = len(outcome.plan.specs()) - len(store.missing(outcome.plan))
    wanted = None if arms is None else with_candidates(plan, arms)
    while True:
        store.save_plan(outcome.plan)
        tried = outcome.failed.keys()
        missing = deque(spec for spec in store.missing(outcome.plan, wanted) if spec.run_id not in tried)
        if not missing:
            return outcome
        make = _Factory(threads, environment())
        with _workers(make, min(jobs, len(missing))) as workers:
            _Engine(store, task, data_dir, workers, make, missing, outcome, on_progress).run()
        if not outcome.plan.waiting:
            return outcome
        outcome.plan = choose(outcome.plan, store)


class _Factory:
    """Starts workers: fresh processes, since torch does not survive a fork."""

    def __init__(self, threads: int, about: Mapping[str, Any]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads, self._about = threads, about

    def __call__(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self._threads, self._about), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


@contextmanager
def _workers(make: _Factory, count: int) -> Iterator[list[_Worker]]:
    workers = [make() for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()
            worker.pipe.close()


class _Engine:
    def __init__(
        self,
        store: Store,
        task: str,
        data_dir: Path | None,
        workers: list[_Worker],
        make: _Factory,
        missing: deque[RunSpec],
        outcome: Outcome,
        on_progress: OnProgress,
    ) -> None:
        self._store, self._task, self._data_dir = store, task, data_dir
        self._workers, self._make = workers, make
        self._missing, self._elsewhere = missing, deque[RunSpec]()
        self._asked = time.monotonic()
        self._outcome, self._on_progress = outcome, on_progress

    def run(self) -> None:
        while self._missing or self._elsewhere or self._busy():
            self._hand_out()
            idle = len(self._busy()) < len(self._workers)
            patience = POLL_SECONDS if idle and self._elsewhere else None
            for pipe in wait([worker.pipe for worker in self._busy()], patience):
                self._listen(next(worker for worker in self._workers if worker.pipe is pipe))
            if idle:
                self._ask_again()

    def _busy(self) -> Sequence[_Worker]:
        return [worker for worker in self._workers if worker.spec is not None]

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.spec is None and self._missing:
                worker.spec = spec = self._missing.popleft()
                task = self._task if spec.task == self._outcome.plan.task else spec.task
                # A worker that died while idle is noticed, and replaced, when its answer is awaited.
                with suppress(BrokenPipeError):
                    worker.pipe.send(Job(spec, task, self._data_dir, self._store.root))

    def _ask_again(self) -> None:
        """For what was in another engine's hands, which may have died; by the clock, however much our workers say."""
        if time.monotonic() - self._asked >= POLL_SECONDS:
            self._asked = time.monotonic()
            self._missing.extend(self._elsewhere)
            self._elsewhere.clear()

    def _listen(self, worker: _Worker) -> None:
        assert worker.spec is not None
        try:
            message: Message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            message = self._replace(worker)
        self._on_progress(worker.spec, message)
        if message.kind == "steps":
            return
        spec, worker.spec = worker.spec, None
        match message.kind:
            case "busy":
                self._elsewhere.append(spec)
            case "failed":
                self._outcome.failed[spec.run_id] = message.text
            case "refused":
                raise RequestError(message.text)
            case "fatal":
                raise RunError(f"{message.text}; finished runs are kept, the same command goes on from here")

    def _replace(self, worker: _Worker) -> Message:
        """A worker died without a word (out of memory, killed): its run failed, a new worker takes its place."""
        worker.process.join()
        code = worker.process.exitcode
        fresh = self._make()
        worker.pipe.close()
        worker.process, worker.pipe = fresh.process, fresh.pipe
        return Message("failed", text=f"its process died with exit code {code} (killed, or out of memory?)")
