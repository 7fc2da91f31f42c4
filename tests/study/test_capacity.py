"""Which micro-batches fit, how fast they are, and which is the largest: with scripted processes, and one real one.

No test looks at a time that was really measured.
"""

from functools import partial
from pathlib import Path

import pytest

from rebatch.errors import RequestError, RunError
from rebatch.execution import Execution
from rebatch.recipe import GradientPenalty
from rebatch.study import capacity
from rebatch.study.capacity import Capacity, Largest, largest_micro_batch, measure_capacity
from rebatch.study.capacity_bench import Bench
from rebatch.study.capacity_process import Lost, Prober
from rebatch.study.capacity_worker import Checked, Timed, Workload
from rebatch.tasks import TASKS
from study.scripted import FIXED, PER_EXAMPLE, UPDATE, work

RECIPE = TASKS["digits/mlp-plain"].recipe
MEGABYTE = 10**6


def scripted(how: str, *, ghost: int | None = None, execution: Execution | None = None) -> Workload:
    recipe = RECIPE.replace(batch_size=max(RECIPE.batch_size, ghost or 0), ghost_batch_size=ghost)
    return Workload(how, recipe, execution or Execution())


def prober(how: str, *, time_limit: float = 60.0) -> Prober:
    return Prober(scripted(how), time_limit=time_limit, target=work)


@pytest.fixture
def _script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "Prober", partial(Prober, target=work))


@pytest.mark.parametrize(
    ("how", "failure", "detail"),
    [
        ("killed beyond 2", "memory", "killed"),
        ("exits beyond 2", "died", "exit code 3"),
        ("full beyond 2", "memory", "MemoryError"),
    ],
)
def test_a_process_that_runs_out_of_memory_is_an_answer_and_another_takes_its_place(
    how: str, failure: str, detail: str
) -> None:
    with prober(how) as asked:
        assert isinstance(asked.check(2), Checked)
        lost = asked.check(3)
        assert isinstance(lost, Lost)
        assert lost.failure == failure
        assert detail in lost.detail
        assert isinstance(asked.check(1), Checked)


def test_a_process_that_does_not_answer_in_time_is_ended() -> None:
    with prober("sleeps beyond 0") as asked:
        asked.time_limit = 0.2
        assert asked.check(1) == Lost("time", "no answer within 0.2 s")


def test_a_death_at_the_first_size_says_nothing_of_memory() -> None:
    with prober("exits beyond 0") as asked, pytest.raises(RunError, match=r"micro_batch_size 1, the first .*code 3\)"):
        asked.check(1)


def test_an_error_that_is_not_about_memory_ends_the_measurement() -> None:
    with prober("fails beyond 0") as asked, pytest.raises(RunError, match=r"ZeroDivisionError: my bug \(mine.py:7\)"):
        asked.check(1)


def test_a_model_that_does_not_fit_at_all_is_told() -> None:
    with pytest.raises(RunError, match="not even the model and the data could be made ready: no room"):
        prober("never ready").__enter__()


def test_what_a_used_process_cannot_hold_is_asked_of_a_fresh_one() -> None:
    with prober("full after others beyond 2") as asked:
        assert isinstance(asked.check(1), Checked)
        assert isinstance(asked.check(5), Checked)


def tried(found: Largest) -> list[tuple[int, str]]:
    return [(size.micro_batch_size, size.outcome) for size in found.tried]


@pytest.mark.usefixtures("_script")
def test_the_search_finds_the_largest_size_though_larger_ones_kill_their_process() -> None:
    found = largest_micro_batch(scripted("killed beyond 5"), precision=0.0)
    assert (found.micro_batch_size, found.bounded_by) == (5, "memory")
    assert tried(found) == [(1, "fits"), (2, "fits"), (4, "fits"), (5, "fits"), (6, "memory"), (8, "memory")]


@pytest.mark.usefixtures("_script")
def test_the_largest_size_is_one_that_fits_in_the_long_run() -> None:
    # 6 to 10 fit at first, and 10 is what the first search comes to.
    found = largest_micro_batch(scripted("full in the long run beyond 5"), precision=0.0)
    assert (found.micro_batch_size, found.bounded_by) == (5, "memory")
    assert (6, "memory") in tried(found)


@pytest.mark.usefixtures("_script")
def test_the_search_never_cuts_a_ghost_and_ends_at_most() -> None:
    found = largest_micro_batch(scripted("kind", ghost=16), most=60)
    assert (found.micro_batch_size, found.bounded_by) == (48, "most")
    assert tried(found) == [(16, "fits"), (32, "fits"), (48, "fits")]
    with pytest.raises(RequestError, match="smallest micro-batch size here is 16, got at most 8"):
        largest_micro_batch(scripted("kind", ghost=16), most=8)


@pytest.mark.usefixtures("_script")
def test_where_nothing_fits_there_is_no_largest() -> None:
    found = largest_micro_batch(scripted("full beyond 0"))
    assert (found.micro_batch_size, found.bounded_by, tried(found)) == (None, "memory", [(1, "memory")])
    table = measure_capacity(scripted("full beyond 0"))
    assert (table.full_speed, table.fit, table.update_seconds, table.ended) == (None, None, None, "memory")


def outcomes(found: Capacity) -> list[tuple[int, str]]:
    return [(size.micro_batch_size, size.outcome) for size in found.sizes]


@pytest.mark.usefixtures("_script")
def test_sizes_double_until_one_is_slow() -> None:
    found = measure_capacity(scripted("kind"), block_seconds=1e-3)
    # 512 examples take 129 ms, and the data have no 1,024.
    assert outcomes(found) == [(2**power, "fits") for power in range(10)]
    assert found.ended == "data"


@pytest.mark.usefixtures("_script")
def test_rates_count_the_update_and_the_fit_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "SLOW_SECONDS", 0.01)
    found = measure_capacity(scripted("kind"))
    assert (found.ended, outcomes(found)[-1]) == ("slow", (64, "fits"))
    rate = found.sizes[-1].examples_per_second
    assert rate is not None
    assert rate.low == rate.high == pytest.approx(64 / (FIXED + 64 * PER_EXAMPLE + UPDATE), rel=1e-10)
    assert found.update_seconds is not None
    assert found.update_seconds.estimate == UPDATE
    assert found.fit is not None
    assert found.fit.seconds(41).estimate == pytest.approx(FIXED + 41 * PER_EXAMPLE, rel=1e-10)
    assert found.full_speed == 64  # 32 examples take 10 ms, at 3,200 a second; 64 at 3,556, 10 % more


@pytest.mark.usefixtures("_script")
@pytest.mark.parametrize("compiled", [False, True])
def test_sizes_beyond_one_that_fails_are_not_tried(compiled: bool) -> None:
    execution = Execution(compile=compiled)
    found = measure_capacity(scripted("full beyond 32", execution=execution), sizes=[64, 16, 32, 128], rounds=6)
    assert outcomes(found) == [(16, "fits"), (32, "fits"), (64, "memory"), (128, "untried")]
    assert found.ended == "memory"
    assert [size.seconds is not None for size in found.sizes] == [True, True, False, False]


@pytest.mark.usefixtures("_script")
def test_a_size_that_no_longer_fits_when_it_is_timed_does_not_fit() -> None:
    found = measure_capacity(scripted("full when timed beyond 16"), sizes=[8, 16, 32], rounds=6)
    assert outcomes(found) == [(8, "fits"), (16, "fits"), (32, "memory")]
    assert (found.sizes[-1].detail, found.ended) == ("when it was timed: the heap is in pieces", "memory")
    assert found.fit is not None
    assert found.fit.sizes == (8, 16)


@pytest.mark.usefixtures("_script")
def test_a_size_that_is_lost_between_two_rounds_keeps_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def time(self: Prober, size: int, count: int) -> Timed | Lost:
        asked.append(size)
        return Lost("memory", "gone") if asked.count(32) == 3 and size == 32 else Timed(0.01 * size, UPDATE)

    monkeypatch.setattr(Prober, "time", time)
    found = measure_capacity(scripted("kind"), sizes=[8, 16, 32], rounds=6)
    assert outcomes(found) == [(8, "fits"), (16, "fits"), (32, "memory")]
    assert found.sizes[-1].seconds is None
    assert (asked.count(8), asked.count(16), asked.count(32)) == (6, 6, 3)


@pytest.mark.usefixtures("_script")
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([16, 40], "multiple of ghost_batch_size=16, got 40; try 32"),
        ([0], "positive multiple of ghost_batch_size=16, got 0; try 16"),
        ([1008], "at most the number of training examples, 1000, got 1008"),
        ([], r"no micro-batch size to measure: name one, a multiple of 16 up to .* examples, 1000"),
    ],
)
def test_sizes_that_ghosts_or_data_do_not_allow_are_refused(sizes: list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        measure_capacity(scripted("kind", ghost=16), sizes=sizes)


@pytest.mark.usefixtures("_script")
def test_a_ghost_that_the_data_cannot_fill_leaves_nothing_to_measure() -> None:
    with pytest.raises(RequestError, match="no micro-batch size to measure: name one, a multiple of 1024 up to"):
        measure_capacity(scripted("kind", ghost=1024))


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(RequestError, match="at least 6 rounds, got 5"):
        measure_capacity(scripted("kind"), rounds=5)


def test_a_penalty_on_pieces_of_its_own_leaves_no_micro_batch_to_measure() -> None:
    recipe = RECIPE.replace(gradient_penalty=GradientPenalty(strength=0.1, batch_size=8))
    with pytest.raises(RequestError, match="with a gradient_penalty, which passes its own pieces, of 8 examples"):
        Bench(Workload("digits/mlp-plain", recipe), None)


def test_a_real_model_that_takes_more_than_the_memory_limit_does_not_fit_and_smaller_batches_do() -> None:
    task = f"{Path(__file__).parent / 'hungry.py'}:hungry"  # a megabyte for each example
    hungry = Workload(task, RECIPE, threads=1, memory_limit=900 * MEGABYTE)
    found = measure_capacity(hungry, sizes=[4, 64, 1000], rounds=6, block_seconds=1e-3)
    assert outcomes(found) == [(4, "fits"), (64, "fits"), (1000, "memory")]
    small, medium, large = found.sizes
    assert small.memory is not None
    assert medium.memory is not None
    assert medium.memory - small.memory > 40 * MEGABYTE  # of the 60 that it takes more
    assert (large.memory, large.seconds) == (None, None)
    assert (found.limit, found.unit, found.examples, found.plain_batch_norm) == (900 * MEGABYTE, 1, 1009, False)
    assert found.full_speed in {4, 64}
    assert small.seconds is not None
    assert 0.0 < small.seconds.low <= small.seconds.estimate <= small.seconds.high
