"""A process that does runs one after the other, with one thread, for an engine that listens at the other end."""

import errno
import os
import signal
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from rebatch.errors import RequestError
from rebatch.study.plan import RunSpec
from rebatch.tasks import Task


@dataclass(frozen=True)
class Job:
    """A run to do: the spec, and where its task, data and store are."""

    spec: RunSpec
    task: str
    data_dir: Path | None
    store: Path


@dataclass(frozen=True)
class Message:
    """What a worker says of its run: a number of finished steps, or how it ended.

    `done`: its result is in the store. `busy`: another process holds it. `failed`: an error, the study can go on.
    `refused`: the request was wrong. `fatal`: an error that every run would meet (the disk is full). Both end the
    study.
    """

    kind: Literal["steps", "done", "busy", "failed", "refused", "fatal"]
    steps: int = 0
    text: str = ""


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def work(pipe: Connection, threads: int, environment: Mapping[str, Any]) -> None:
    """Take jobs from `pipe` until it closes. The engine handles Ctrl-C; a worker ends when its engine does.

    What a user's code prints goes to standard error: standard output is the engine's, for results.
    """
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            job: Job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_attempt(job, pipe, environment))
        except (BrokenPipeError, ConnectionResetError):
            return


def _attempt(job: Job, pipe: Connection, environment: Mapping[str, Any]) -> Message:
    try:
        return _do(job, pipe, environment)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except RequestError as error:
        return Message("refused", text=str(error))
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return Message("fatal", text=f"{error.strerror} ({error.filename or job.store})")
        return Message("failed", text=_failure(error, job))


def _failure(error: BaseException, job: Job) -> str:
    """The error in one line, and the file in the run's folder that has the traceback."""
    from rebatch.study.store import Store
    from rebatch.tasks.find import describe

    with suppress(OSError):
        path = Store(job.store).run(job.spec).keep_error("".join(traceback.format_exception(error)))
        return f"{describe(error)}, traceback in {path}"
    return describe(error)


def _do(job: Job, pipe: Connection, environment: Mapping[str, Any]) -> Message:
    from rebatch.distributed import World
    from rebatch.study.execute import execute
    from rebatch.study.store import Store

    task = _task(job)
    folder = Store(job.store).begin(job.spec)
    with folder.held() as ours:
        if not ours:
            return Message("busy")
        if folder.result() is None:
            execute(
                job.spec,
                folder,
                task,
                data_dir=job.data_dir,
                environment=environment,
                world=World.from_environment(),
                on_row=lambda row: pipe.send(Message("steps", int(row["step"]))),
            )
    return Message("done")


def _task(job: Job) -> Task:
    """The job's task; a run must not be computed by another file, or on other data, than its spec names."""
    from rebatch.tasks.find import find_task, run_digest

    task = find_task(job.task).sized(job.data_dir)
    if run_digest(job.task, task) != job.spec.task_digest:
        raise RequestError(
            f"the file or the data of {job.task} changed while the study ran; run the study again, all of it"
        )
    return task
