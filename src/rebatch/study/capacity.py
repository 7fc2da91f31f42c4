"""How fast is a micro-batch of each size on this device, how much memory does it take, and which is the largest?

All of it is measured, by the parts of our own loop, in a process of its own: one that runs out of memory, or that the
kernel kills for its memory, is an answer. Sizes are first checked in rising order, then timed in rounds, each round all
sizes, so that whatever else slows the machine slows all of them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec

from rebatch.cutting import refuse_split_ghosts
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.interval import Interval
from rebatch.step_time import (
    FEWEST_ROUNDS,
    StepTimeFit,
    doublings,
    fit_step_time,
    full_speed,
    largest_that_fits,
    median_interval,
)
from rebatch.study.capacity_process import Failure, Lost, Prober
from rebatch.study.capacity_worker import Checked, Ready, Timed, Workload
from rebatch.study.memory import show_bytes

# Many short rounds rather than few long ones: a round is then over before the machine's speed changes. Of 15 values the
# interval of the median leaves out three on each side, and covers 96 %.
ROUNDS = 15
# A size is timed for so long in a round, or for one micro-batch.
BLOCK_SECONDS = 0.05
MOST_AT_ONCE = 1000
# Without a list of sizes, doubling ends with the first that takes so long: what is fixed in a step is long paid.
SLOW_SECONDS = 0.5
# How long a process may take to start, or to answer. Compiling takes minutes.
TIME_LIMIT = 300.0
# The search ends where what fits and what does not are so close.
PRECISION = 1 / 32

OnProgress = Callable[[str], None]


class Size(msgspec.Struct, frozen=True):
    """What was found of one micro-batch size.

    Attributes:
        outcome: `fits`, or why not: out of `memory`; no answer within the `time` limit; its process `died` of something
            else, as libraries do that get no memory; or `untried`, a smaller one having failed.
        detail: the error, where there was one.
        memory: bytes held at most above the baseline, in a step of two micro-batches: model, gradients, optimizer, the
            batch and what is kept for the way back. None where the system does not tell.
        seconds: of one micro-batch, forward and backward; None where it was not timed.
        examples_per_second: of steps of one such micro-batch each, their update included.
    """

    micro_batch_size: int
    outcome: Literal["fits", "untried"] | Failure
    detail: str = ""
    memory: int | None = None
    seconds: Interval | None = None
    examples_per_second: Interval | None = None


class Largest(msgspec.Struct, frozen=True):
    """The largest micro-batch size that fits, as a fresh process said last; None where not even the smallest does.

    Attributes:
        bounded_by: what keeps it from being larger: why the next size tried failed, or that it is the `most` allowed.
        tried: every size that was asked about, rising.
    """

    micro_batch_size: int | None
    bounded_by: Failure | Literal["most"]
    tried: tuple[Size, ...]


class Capacity(msgspec.Struct, frozen=True):
    """Speed and memory of training on one device, by micro-batch size.

    Attributes:
        limit: bytes of memory that could be held, `baseline` included; None where nothing limited them.
        baseline: bytes held with the data loaded, before there is a model; None where the system does not tell.
        unit: sizes are multiples of it, the ghost batch size.
        plain_batch_norm: whether cutting a step into micro-batches would change the run.
        update_seconds: of what a step does after its gradient is complete, once, whatever it was cut into.
        fit: seconds of a micro-batch of any size; None with fewer than two sizes.
        full_speed: the smallest size whose examples per second are within 10 % of the best; None where none was timed.
        ended: why there is no larger size: only those were `given`, the `data` have no more, the last was `slow`, or
            why it failed.
    """

    task: str
    execution: Execution
    device: str
    threads: int
    examples: int
    limit: int | None
    baseline: int | None
    unit: int
    plain_batch_norm: bool
    rounds: int
    update_seconds: Interval | None
    sizes: tuple[Size, ...]
    fit: StepTimeFit | None
    full_speed: int | None
    ended: Failure | Literal["given", "data", "slow"]
    largest: Largest | None = None

    def seconds(self, micro_batch_size: int) -> float:
        """Of a micro-batch: as timed, or by the line."""
        for size in self.sizes:
            if size.micro_batch_size == micro_batch_size and size.seconds is not None:
                return size.seconds.estimate
        if self.fit is None:
            raise RequestError(f"micro_batch_size {micro_batch_size} was not timed, nor two others; name more sizes")
        return self.fit.seconds(micro_batch_size).estimate


def measure_capacity(
    workload: Workload,
    *,
    sizes: Sequence[int] | None = None,
    search: bool = False,
    rounds: int = ROUNDS,
    block_seconds: float = BLOCK_SECONDS,
    time_limit: float = TIME_LIMIT,
    on_progress: OnProgress = lambda _: None,
) -> Capacity:
    """Time and memory of micro-batches of `sizes`; by default powers of two (times the ghost batch size) from 1 up.

    Times are medians over `rounds`, between bounds that assume nothing of their scatter (`median_interval`). A compiled
    model gets a process for each size, in which its rounds follow one another.

    Args:
        search: also search for the largest size that fits, as `largest_micro_batch` does.
        block_seconds: how long a size is timed in each round, or for one micro-batch.
        time_limit: seconds that a process may take to start, or for one answer.
        on_progress: is told each step in a line.

    Raises:
        RequestError: sizes that the ghosts or the data do not allow, too few rounds, too large a memory limit.
        RunError: an error of the model, or not even the model fits.
    """
    if rounds < FEWEST_ROUNDS:
        raise RequestError(f"an interval of the median needs at least {FEWEST_ROUNDS} rounds, got {rounds}")
    with Prober(workload, time_limit=time_limit) as prober:
        ready, session = prober.ready, _Session(prober, rounds, block_seconds, on_progress)
        wanted = _allowed(doublings(ready.least, ready.examples) if sizes is None else sizes, ready)
        why = session.go_through(wanted, apart=workload.execution.compile, until_slow=sizes is None)
        asked = [size for size in wanted if why != "slow" or size in session.found]
        largest = session.search(ready.examples, PRECISION) if search else None
    return Capacity(
        task=workload.task,
        execution=workload.execution,
        device=ready.device,
        threads=ready.threads,
        examples=ready.examples,
        limit=ready.limit,
        baseline=ready.baseline,
        unit=ready.unit,
        plain_batch_norm=ready.plain_batch_norm,
        rounds=rounds,
        update_seconds=session.update_seconds(),
        sizes=tuple(session.row(size) for size in asked),
        fit=session.fit(),
        full_speed=session.full_speed(),
        ended=why or ("data" if sizes is None else "given"),
        largest=largest,
    )


def largest_micro_batch(
    workload: Workload,
    *,
    most: int | None = None,
    precision: float = PRECISION,
    time_limit: float = TIME_LIMIT,
    on_progress: OnProgress = lambda _: None,
) -> Largest:
    """The largest micro-batch size that fits the memory limit: doubling, then halving the gap, in multiples of ghosts.

    The size it gives was tried for several steps, as the first thing that a process did. It is at most `most`, such as
    the batch size, and the number of training examples. The search ends within `precision` of a size that fails.

    Raises:
        RequestError, RunError: as `measure_capacity`.
    """
    with Prober(workload, time_limit=time_limit) as prober:
        session, examples = _Session(prober, ROUNDS, BLOCK_SECONDS, on_progress), prober.ready.examples
        return session.search(examples if most is None else min(most, examples), precision)


class _Session:
    """What has been found with one prober so far."""

    def __init__(self, prober: Prober, rounds: int, block_seconds: float, tell: OnProgress) -> None:
        self._prober, self._tell = prober, tell
        self._rounds, self._block_seconds = rounds, block_seconds
        self._roughly: dict[int, float] = {}
        self._times: dict[int, list[Timed]] = {}
        self._proven: set[int] = set()
        self.found: dict[int, Size] = {}

    def go_through(self, sizes: Sequence[int], *, apart: bool, until_slow: bool) -> Failure | Literal["slow"] | None:
        """Check sizes and time those that fit, up to the first that fails or is slow; gives why it ended there.

        `apart`: each size in a process of its own.
        """
        slow = False
        for size in sizes:
            if apart:
                self._prober.stop()
            fits = self._check(size) is None
            if fits and apart:
                self._time([size])
            slow = fits and until_slow and self._roughly[size] >= SLOW_SECONDS
            if not fits or slow:
                break
        if not apart:
            self._time([size for size in sizes if size in self._roughly])
        failures = (_failure(self.found[size]) for size in sizes if size in self.found)
        return next((failure for failure in failures if failure is not None), "slow" if slow else None)

    def search(self, most: int, precision: float) -> Largest:
        """The largest size up to `most` that fits."""
        ready = self._prober.ready
        if most < ready.least:
            raise RequestError(f"the smallest micro-batch size here is {ready.least}, got at most {most}; allow more")
        doubtful = math.inf  # what is above half of it is believed only where a thorough check has proven it
        while True:
            fits = partial(self._fits, doubtful=doubtful)
            size = largest_that_fits(fits, least=ready.least, most=most, unit=ready.unit, precision=precision)
            if size is None or self._fits(size, doubtful=0.0):
                break
            doubtful = size
        tried = tuple(self.found[each] for each in sorted(self.found))
        failures = (_failure(each) for each in tried)
        return Largest(size, next((failure for failure in failures if failure is not None), "most"), tried)

    def row(self, size: int) -> Size:
        """All that is known of a size."""
        found, times = self.found.get(size), self._times.get(size)
        if found is None:
            return Size(size, "untried", "a smaller one failed")
        if times is None:
            return found
        seconds = median_interval([timed.micro_batch for timed in times])
        rate = median_interval(_rates(size, times))
        return msgspec.structs.replace(found, seconds=seconds, examples_per_second=rate)

    def full_speed(self) -> int | None:
        """From which size on larger ones are no faster."""
        return full_speed({size: _rates(size, times) for size, times in self._times.items()}) if self._times else None

    def update_seconds(self) -> Interval | None:
        """Of the update of a step, whatever the size."""
        updates = [timed.update for times in self._times.values() for timed in times]
        return median_interval(updates) if updates else None

    def fit(self) -> StepTimeFit | None:
        """The line through the times, where there are two sizes at least."""
        seconds = {size: [timed.micro_batch for timed in times] for size, times in self._times.items()}
        return fit_step_time(seconds) if len(seconds) > 1 else None

    def _fits(self, size: int, *, doubtful: float) -> bool:
        """Whether it fits, as far as is known; asked only where more must be known."""
        thorough = 2 * size > doubtful
        known = self.found.get(size)
        if known is not None and (known.outcome != "fits" or not thorough or size in self._proven):
            return known.outcome == "fits"
        return self._check(size, thorough=thorough) is None

    def _check(self, size: int, *, thorough: bool = False) -> Failure | None:
        answer = self._prober.check(size, thorough=thorough)
        if isinstance(answer, Checked):
            self._roughly[size] = answer.seconds
            self.found[size] = Size(size, "fits", memory=answer.memory)
            self._proven |= {size} if thorough else set()
        else:
            self.found[size] = Size(size, answer.failure, answer.detail)
        self._tell(_in_words(self.found[size]))
        return _failure(self.found[size])

    def _time(self, sizes: Sequence[int]) -> None:
        """Time `sizes` in rounds, up and down in turns; one that no longer fits is left out from there on."""
        self._tell(f"timing {len(sizes)} sizes in {self._rounds} rounds")
        alive = list(sizes)
        for number in range(self._rounds):
            for size in alive[:: 1 if number % 2 == 0 else -1]:
                count = round(self._block_seconds / self._roughly[size])
                answer = self._prober.time(size, min(max(1, count), MOST_AT_ONCE))
                if isinstance(answer, Lost):
                    alive.remove(size)
                    self._times.pop(size, None)
                    self.found[size] = Size(size, answer.failure, f"when it was timed: {answer.detail}")
                    self._tell(_in_words(self.found[size]))
                else:
                    self._times.setdefault(size, []).append(answer)


def _rates(size: int, times: Sequence[Timed]) -> list[float]:
    """Examples per second of steps of one micro-batch."""
    return [size / (timed.micro_batch + timed.update) for timed in times]


def _failure(found: Size) -> Failure | None:
    outcome = found.outcome
    return None if outcome == "fits" or outcome == "untried" else outcome


def _in_words(found: Size) -> str:
    if found.outcome != "fits":
        return f"micro_batch_size {found.micro_batch_size:,} does not fit: {found.detail}"
    memory = "" if found.memory is None else f" in {show_bytes(found.memory)}"
    return f"micro_batch_size {found.micro_batch_size:,} fits{memory}"


def _allowed(sizes: Sequence[int], ready: Ready) -> list[int]:
    """The sizes asked for, rising, each once."""
    if not sizes:
        raise RequestError(
            f"there is no micro-batch size to measure: name one, a multiple of {ready.unit} up to the number of "
            f"training examples, {ready.examples}"
        )
    for size in sizes:
        refuse_split_ghosts(size, ready.unit)
        if size > ready.examples:
            raise RequestError(
                f"micro_batch_size must be at most the number of training examples, {ready.examples}, got {size}"
            )
    return sorted(set(sizes))
