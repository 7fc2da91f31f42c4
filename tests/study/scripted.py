"""A stand-in for `capacity_worker.work` that imports no torch: a script (else `workload.task`) says how sizes fare."""

import os
import signal
import time
from multiprocessing.connection import Connection

from rebatch.study.capacity_worker import Check, Checked, Failed, Ready, Time, Timed, Workload

# A step of m examples takes 1 ms, and 0.25 ms for each.
FIXED, PER_EXAMPLE, UPDATE = 1e-3, 0.25e-3, 1e-3


def work(pipe: Connection, workload: Workload, known_limit: int | None, *, script: str = "") -> None:
    """Be ready, with sizes in multiples of the recipe's ghost batch size, and answer."""
    script = script or workload.task
    how, _, number = script.rpartition(" ")
    if script == "never ready":
        pipe.send(Failed("memory", "no room for the model"))
        return
    unit = workload.recipe.ghost_batch_size or 1
    pipe.send(Ready("made up", 1, 1000, known_limit or 10**9, 10**6, unit, unit, plain_batch_norm=False))
    tried: set[int] = set()
    while True:
        try:
            request: Check | Time = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(how, int(number) if how else 0, request, tried))
        tried.add(request.size)


def answer(how: str, number: int, request: Check | Time, tried: set[int]) -> object:
    """What the script `how` says, with `number` as the size up to which it is kind."""
    size, thorough = request.size, isinstance(request, Check) and request.steps > 10
    match how:
        case "killed beyond" if size > number:
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits beyond" if size > number:
            os._exit(3)
        case "sleeps beyond" if size > number:
            time.sleep(1000.0)
        case "full beyond" if size > number:
            return Failed("memory", "MemoryError")
        case "fails beyond" if size > number:
            return Failed("error", "ZeroDivisionError: my bug (mine.py:7)")
        case "full after others beyond" if size > number and tried - {size}:
            return Failed("memory", "the heap is in pieces")
        case "full in the long run beyond" if size > number and (thorough or size > 2 * number):
            return Failed("memory", "the heap is in pieces")
        case "full when timed beyond" if size > number and isinstance(request, Time):
            return Failed("memory", "the heap is in pieces")
    seconds = FIXED + PER_EXAMPLE * size
    return Checked(1000 * size, seconds) if isinstance(request, Check) else Timed(seconds, UPDATE)
