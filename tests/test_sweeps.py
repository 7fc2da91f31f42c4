"""Reading a sweep and the best rate of each batch size: known answers, ends of the grid, noise, messages."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from rebatch.errors import RequestError
from rebatch.sweeps import Run, Sweep, best_rates, read_sweep

RATES = [0.01 * 2.0 ** (step / 2) for step in range(13)]


def valley(best: float, rates: Iterable[float] = RATES, *, batch_size: float = 32, noise: float = 0.0, seed: int = 0):  # type: ignore[no-untyped-def]
    """Runs whose loss is a parabola in ln rate around `best`."""
    rng = np.random.default_rng(seed)
    return [
        Run(lr=lr, batch_size=batch_size, loss=2 + 0.05 * math.log(lr / best) ** 2 + noise * rng.standard_normal())
        for lr in rates
    ]


def test_the_vertex_of_a_parabola_is_found_between_the_rates() -> None:
    (found,) = best_rates(Sweep(tuple(valley(0.093))))
    assert found.lr == pytest.approx(0.093, rel=1e-9)
    assert found.edge is None
    assert found.rates == 13
    assert found.log_error == pytest.approx(0.0, abs=1e-6)


def test_best_rates_come_by_rising_batch_size_whatever_the_order_of_the_runs() -> None:
    runs = [*valley(0.2, batch_size=512), *valley(0.05, batch_size=2), *valley(0.1, batch_size=32)]
    shuffled = np.random.default_rng(0).permutation(len(runs))
    found = best_rates(Sweep(tuple(runs[place] for place in shuffled)))
    assert [(rate.batch_size, round(rate.lr, 6)) for rate in found] == [(2, 0.05), (32, 0.1), (512, 0.2)]


def test_the_error_is_as_large_as_the_scatter_of_repeated_sweeps() -> None:
    """Sizes pooled: the errors of one sweep stand on 5 valleys. The choice of the window adds a little scatter."""
    rng, z = np.random.default_rng(1), []
    for _ in range(100):
        runs = [
            run
            for size in (2, 3, 5, 7, 11)
            for run in valley(0.093, batch_size=size, noise=0.003, seed=int(rng.integers(1 << 31)))
        ]
        z += [math.log(rate.lr / 0.093) / rate.log_error for rate in best_rates(Sweep(tuple(runs)))]
    assert np.std(z) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(z)) * math.sqrt(len(z)) < 4


def test_seeds_are_averaged_before_the_parabola() -> None:
    low, high = valley(0.093), valley(0.093)
    moved = [Run(lr=run.lr, batch_size=run.batch_size, loss=run.loss + (-1) ** i) for i, run in enumerate(low)]
    back = [Run(lr=run.lr, batch_size=run.batch_size, loss=run.loss - (-1) ** i) for i, run in enumerate(high)]
    (found,) = best_rates(Sweep((*moved, *back)))
    assert found.lr == pytest.approx(0.093, rel=1e-9)


@pytest.mark.parametrize(("best", "edge"), [(0.001, "lowest"), (10.0, "highest")])
def test_a_best_rate_at_an_end_is_that_end_and_open_beyond(best: float, edge: str) -> None:
    (found,) = best_rates(Sweep(tuple(valley(best))))
    assert found.edge == edge
    assert found.lr == (RATES[0] if edge == "lowest" else RATES[-1])
    assert math.isinf(found.log_error)
    interval = found.interval()
    assert (interval.low, interval.high) == ((0.0, RATES[0]) if edge == "lowest" else (RATES[-1], math.inf))


def test_diverged_runs_do_not_move_the_best_rate() -> None:
    """Above .11, two rates over the best, every run diverges: with a large loss, nan or inf."""
    exact = best_rates(Sweep(tuple(valley(0.08))))[0].lr
    for loss in (6.9, math.nan, math.inf):
        runs = [run if run.lr < 0.12 else Run(lr=run.lr, batch_size=32, loss=loss) for run in valley(0.08)]
        assert best_rates(Sweep(tuple(runs)))[0].lr == pytest.approx(exact, rel=1e-6)


def test_a_best_rate_beside_a_cliff_lies_between_its_neighbors() -> None:
    for loss in (6.9, math.inf):
        runs = [run if run.lr < 0.09 else Run(lr=run.lr, batch_size=32, loss=loss) for run in valley(0.08)]
        (found,) = best_rates(Sweep(tuple(runs)))
        assert RATES[5] < found.lr <= RATES[6]  # .0566 and .08
        assert 0.0 < found.log_error <= math.log(2) / math.sqrt(12)


def test_the_error_of_a_flat_valley_is_at_most_that_of_anywhere_between_the_neighbors() -> None:
    for seed in range(10):
        rates = [Run(lr=lr, batch_size=3, loss=run.loss) for lr, run in zip(RATES, valley(0.09, noise=1.0, seed=seed))]  # noqa: B905
        for rate in best_rates(Sweep(tuple(rates))):
            assert rate.edge is not None or rate.log_error <= math.log(2) / math.sqrt(12) + 1e-12


def test_three_rates_have_a_vertex_and_an_error_from_their_distance() -> None:
    (found,) = best_rates(Sweep(tuple(valley(0.09, [0.05, 0.1, 0.2]))))
    assert found.lr == pytest.approx(0.09, rel=1e-9)
    assert found.log_error == pytest.approx(math.log(4) / math.sqrt(12))


TABLE = "group,lr,batch_size,loss,seed\na,0.1,32,2.5,0\nb,0.2,64,nan,1\n"


def test_a_table_is_read_with_its_groups_and_seeds(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(TABLE)
    sweep = read_sweep(path)
    assert sweep.runs[0] == Run(lr=0.1, batch_size=32, loss=2.5, group="a", seed="0")
    assert math.isnan(sweep.runs[1].loss)
    assert {name: len(each.runs) for name, each in sweep.groups().items()} == {"a": 1, "b": 1}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("rate,tokens,final,extra\n0.1,2048,2.5,x\n")
    sweep = read_sweep(path, {"lr": "rate", "batch_size": "tokens", "loss": "final"})
    assert sweep.runs == (Run(lr=0.1, batch_size=2048, loss=2.5),)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("lr,batchsize,loss\n", {}, r"runs.csv: no column 'batch_size' for batch_size; did you mean 'batchsize'\?$"),
        ("lr,batch_size,loss\n", {"loss": "x"}, r"no column 'x' for loss; there are lr, batch_size, loss$"),
        ("lr,batch_size,loss\n", {"group": "g"}, r"no column 'g' for group; there are"),
        ("lr,batch_size,loss\n", {"los": "x"}, r"^a sweep has no 'los'; did you mean 'loss'\?$"),
        ("lr,batch_size,loss\n", {}, r"the table has no runs, only a header$"),
        ("", {}, r"the file is empty; it needs a header with lr, batch_size and loss"),
        ("lr,batch_size,loss\n.1,32,2\n.1,,2\n", {}, r"runs.csv: line 3: batch_size must be a number, got ''$"),
        ("lr,batch_size,loss\nx,32,2\n", {}, r"line 2: lr must be a number, got 'x'$"),
        ("lr,batch_size,loss\n.1,32\n", {}, r"line 2: loss must be a number, got ''$"),
        ("lr,batch_size,loss\n-.1,32,2\n", {}, r"line 2: lr must be positive and finite, got -0.1$"),
        ("lr,batch_size,loss\n.1,inf,2\n", {}, r"line 2: batch_size must be positive and finite, got inf$"),
        ("lr,batch_size,loss\nnan,32,2\n", {}, r"line 2: lr must be positive and finite, got nan$"),
    ],
)
def test_a_faulty_table_is_told_in_one_line(tmp_path: Path, text: str, columns: dict[str, str], message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_sweep(path, columns)


def test_a_file_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^cannot read the sweep .*none.csv: No such file or directory$"):
        read_sweep(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RequestError, match=r"is not a text file of comma-separated values in UTF-8$"):
        read_sweep(tmp_path / "image.csv")


def test_what_has_no_best_rate_is_told_in_one_line() -> None:
    with pytest.raises(RequestError, match=r"needs at least 3 learning rates at a batch size .* got at most 2 rates"):
        best_rates(Sweep(tuple(valley(0.1, [0.1, 0.2]))))
    with pytest.raises(RequestError, match=r"needs at least 3 learning rates"):
        best_rates(Sweep(()))
    groups = tuple(Run(lr=0.1, batch_size=2, loss=1.0, group=name) for name in "ab")
    with pytest.raises(RequestError, match=r"the sweep has 2 groups \(a, b, ...\); take one$"):
        best_rates(Sweep(groups))
