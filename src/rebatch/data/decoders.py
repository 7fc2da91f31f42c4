"""Processes that decode images side by side; which one decodes an image changes no pixel."""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rebatch.data import decoding
from rebatch.errors import RequestError, RunError

MOST = 16
"""Beyond so many processes on one machine the pipe to this one is what limits."""


class Decoders:
    """`processes` processes, each started when it is first needed and held by a thread that talks to it.

    Not `multiprocessing`: its children run the user's script again, or copy a process that has threads. These know
    nothing of the one that asks, and end when their input does.
    """

    def __init__(self, processes: int) -> None:
        if processes < 1:
            raise RequestError(f"images need at least 1 decoding process, got {processes}")
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="rebatch-decoding")
        self._mine = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []

    def submit(self, request: decoding.Request) -> Future[NDArray[np.uint8]]:
        """Begin to decode; the result raises RequestError for a file that is no whole image."""
        return self._threads.submit(self._ask, request)

    def close(self) -> None:
        """Forget what has not begun, and end the processes."""
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            _end(process)
        self._all.clear()

    def _ask(self, request: decoding.Request) -> NDArray[np.uint8]:
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            reply: Any = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            status = self._forget(process)
            raise RunError(f"a decoding process ended with status {status}; is memory short?") from error
        if isinstance(reply, str):
            raise RequestError(reply)
        images: NDArray[np.uint8] = reply
        return images

    def _process(self) -> subprocess.Popen[bytes]:
        if not hasattr(self._mine, "process"):
            # -P: neither the folder of that file nor the current one may hide a module of Python's.
            command = [sys.executable, "-P", decoding.__file__]
            self._mine.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._all.append(self._mine.process)
        process: subprocess.Popen[bytes] = self._mine.process
        return process

    def _forget(self, process: subprocess.Popen[bytes]) -> int:
        """Its status; the next request of this thread starts a fresh one."""
        del self._mine.process
        self._all.remove(process)
        process.kill()  # one that answered nonsense still lives
        return _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Close the pipes, where a dead one may refuse the rest, and wait for its status."""
    with suppress(BrokenPipeError), process:
        pass
    return process.wait()


@lru_cache
def shared_decoders(processes: int) -> Decoders:
    """The decoders that all sets of this process share; they end with it."""
    decoders = Decoders(processes)
    atexit.register(decoders.close)
    return decoders


def default_processes() -> int:
    """As many as this rank's share of the processors that this process may use."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, max(1, usable // ranks))
