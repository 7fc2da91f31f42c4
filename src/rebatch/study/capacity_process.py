"""The near end of a process that tries micro-batches: asks it, survives its death, starts another."""

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from signal import SIGKILL, Signals
from typing import Literal

from rebatch.errors import RequestError, RunError
from rebatch.study.capacity_worker import Check, Checked, Failed, Ready, Time, Timed, Workload, work

# From the second step on gradients and the optimizer's state are there when a step begins. But a heap goes to pieces as
# it is used: a network held 447 MB after 5 steps and 502 MB after 13, and sizes at the limit fit at first, not later.
CHECK_STEPS, THOROUGH_STEPS = 5, 20

# An idle process is gone within so many seconds.
PATIENCE = 5.0

Failure = Literal["memory", "time", "died"]


@dataclass(frozen=True)
class Lost:
    """No answer: memory ran out, none came within the time limit, or the process died of something else."""

    failure: Failure
    detail: str


class Prober:
    """Asks about micro-batch sizes, one process after the other; to be used in a `with`.

    Every question may raise RequestError (the request was wrong) or RunError (an error of the model that has nothing to
    do with memory or time, or not even the model fits).

    Attributes:
        ready: what the first process said of the task and the device.
        time_limit: seconds that a process may take to start, or for one answer.
        target: what the process does.
    """

    ready: Ready

    def __init__(self, workload: Workload, *, time_limit: float, target: Callable[..., None] = work) -> None:
        self._workload, self.time_limit, self._target = workload, time_limit, target
        self._context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        self._worker: tuple[BaseProcess, Connection] | None = None
        self._is_used = self._has_fitted = False
        self._limit: int | None = None

    def __enter__(self) -> "Prober":
        self.ready = self._start()
        self._limit = self.ready.limit
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.stop(patience=0.0 if error is not None else PATIENCE)

    def check(self, size: int, *, thorough: bool = False) -> Checked | Lost:
        """Whether `size` fits; thorough: in a process that has tried no other, and for more steps."""
        if thorough and self._is_used:
            self.stop()
        answer = self._ask_twice(Check(size, THOROUGH_STEPS if thorough else CHECK_STEPS))
        if isinstance(answer, Lost):
            if answer.failure == "died" and not self._has_fitted:
                raise RunError(f"micro_batch_size {size}, the first that was tried: {answer.detail}")
            return answer
        assert isinstance(answer, Checked)
        self._has_fitted = True
        return answer

    def time(self, size: int, count: int) -> Timed | Lost:
        """How long `count` micro-batches of `size` take, each, and the update of a step."""
        answer = self._ask_twice(Time(size, count))
        assert isinstance(answer, Timed | Lost)
        return answer

    def stop(self, *, patience: float = PATIENCE) -> None:
        """End the process, by force after `patience` seconds; the next question starts another."""
        if self._worker is None:
            return
        (process, pipe), self._worker = self._worker, None
        self._is_used = False
        pipe.close()  # an idle process ends with its pipe, and cleans up after itself
        process.join(patience)
        process.kill()
        process.join()

    def _ask_twice(self, request: Check | Time) -> object:
        """Ask a process that has tried other sizes, and if it is lost one that has not.

        What others left in its heap may have been in the way, of sizes up to a quarter smaller (measured).
        """
        was_used = self._is_used
        answer = self._ask(request)
        if isinstance(answer, Lost) and was_used and answer.failure != "time":
            return self._ask(request)
        return answer

    def _ask(self, request: Check | Time) -> object:
        if self._worker is None:
            self._start()
        assert self._worker is not None
        self._is_used = True
        with suppress(BrokenPipeError):  # a process that died meanwhile is noticed where its answer is awaited
            self._worker[1].send(request)
        return self._answer()

    def _start(self) -> Ready:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=self._target, args=(theirs, self._workload, self._limit), daemon=True)
        process.start()
        theirs.close()
        self._worker, self._is_used = (process, ours), False
        answer = self._answer()
        if isinstance(answer, Lost):
            raise RunError(f"not even the model and the data could be made ready: {answer.detail}")
        assert isinstance(answer, Ready)
        return answer

    def _answer(self) -> object:
        assert self._worker is not None
        process, pipe = self._worker
        if not pipe.poll(self.time_limit):
            self.stop(patience=0.0)
            return Lost("time", f"no answer within {self.time_limit:g} s")
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            self.stop()
            return _death(process.exitcode)
        if not isinstance(answer, Failed):
            return answer
        self.stop()
        match answer.kind:
            case "refused":
                raise RequestError(answer.text)
            case "error":
                raise RunError(answer.text)
            case "memory":
                return Lost("memory", answer.text)


def _death(code: int | None) -> Lost:
    """What the exit code of a process says that died without a word; the kernel ends those that take too much by 9."""
    if code == -SIGKILL:
        return Lost("memory", "its process was killed, as the kernel does where memory runs out")
    how = Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return Lost("died", f"its process died ({how}), as libraries do that get no memory")
