"""A process that tries and times micro-batches for `rebatch.study.capacity`, and may run out of memory doing so."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Recipe
from rebatch.tasks.task import FLOAT32


@dataclass(frozen=True)
class Workload:
    """What is trained and how it is computed.

    Attributes:
        task: as on the command line: a built-in name or `path/to/file.py:name`.
        recipe: what is trained by; its batch size and budget do not matter.
        threads: on the CPU; torch's choice if None.
        data_dir: folder of published data files; the user's cache folder if None.
        memory_limit: the most bytes of the device's memory to hold; if None all but `memory.MARGIN` of what is free.
    """

    task: str
    recipe: Recipe
    execution: Execution = FLOAT32
    seed: int = 0
    threads: int | None = None
    data_dir: Path | None = None
    memory_limit: int | None = None


@dataclass(frozen=True)
class Check:
    """Asks: does this micro-batch size fit, in so many steps?"""

    size: int
    steps: int


@dataclass(frozen=True)
class Time:
    """Asks: how long do `count` micro-batches of this size take, and how long does the update of a step?"""

    size: int
    count: int


@dataclass(frozen=True)
class Ready:
    """The first answer: what will be measured, where.

    Attributes:
        limit: bytes of memory that may be held; None where nothing limits them.
        baseline: bytes held with the data loaded, before there is a model; None where the system does not tell.
        unit: sizes are multiples of it: the ghost batch size, else 1.
        least: the smallest size that makes sense: two examples where batch norm needs a variance.
        plain_batch_norm: whether cutting a step into micro-batches would change the run.
    """

    device: str
    threads: int
    examples: int
    limit: int | None
    baseline: int | None
    unit: int
    least: int
    plain_batch_norm: bool


@dataclass(frozen=True)
class Checked:
    """It fits: bytes held at most above the baseline, and seconds of one micro-batch, roughly."""

    memory: int | None
    seconds: float


@dataclass(frozen=True)
class Timed:
    """Seconds of one micro-batch, and of the update of one step."""

    micro_batch: float
    update: float


@dataclass(frozen=True)
class Failed:
    """Why there is no answer: out of memory, the request was wrong, or another error. The process ends with it."""

    kind: Literal["memory", "refused", "error"]
    text: str


# What libraries say when they get no memory and have no type of error for that.
NO_MEMORY = (
    "can't allocate memory",  # torch on the CPU
    "could not create a primitive",  # oneDNN
    "could not create a memory",
    "bad allocation",
    "bad_alloc",
    "out of memory",  # CUDA, HIP, XPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # more elements than cuDNN can count
)


def work(pipe: Connection, workload: Workload, known_limit: int | None) -> None:
    """Say that all is ready, then answer what comes through `pipe`, until it closes or something fails.

    What a user's code prints goes to standard error. The parent handles Ctrl-C; this process ends when the pipe does.
    `known_limit` is the memory limit that an earlier process came to.
    """
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from rebatch.study.capacity_bench import Bench

    benches: list[Bench] = []

    def begin() -> Ready:
        benches.append(Bench(workload, known_limit))
        return benches[0].ready

    answer = _attempt(begin)
    try:
        pipe.send(answer)
        while not isinstance(answer, Failed):
            answer = _attempt(partial(benches[0].answer, pipe.recv()))
            pipe.send(answer)
    except (EOFError, OSError):
        return


def _attempt(do: Callable[[], object]) -> object:
    from rebatch.tasks.find import describe

    try:
        return do()
    except RequestError as error:
        return Failed("refused", str(error))
    except (Exception, SystemExit) as error:
        # Only text leaves here: with the error go its frames, and the memory that they hold.
        return Failed("memory" if _is_out_of_memory(error) else "error", describe(error))


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
