import math

import pytest

from rebatch import batching, cutting
from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Examples, LastBatch, Recipe, Sgd, Steps


def recipe(batch_size: int, budget: Epochs | Steps | Examples, last_batch: LastBatch = "keep") -> Recipe:
    return Recipe(batch_size=batch_size, optimizer=Sgd(lr=0.1), budget=budget, last_batch=last_batch)


@pytest.mark.parametrize("examples", [1, 2, 5, 30, 31, 32, 97])
@pytest.mark.parametrize("ghost", [2, 3, 7, 32])
def test_ghosts_cover_the_batch_and_none_has_one_example(examples: int, ghost: int) -> None:
    sizes = cutting.ghost_sizes(examples, ghost)
    assert sum(sizes) == examples
    assert all(size >= 2 for size in sizes) or examples == 1
    assert all(size == ghost for size in sizes[:-1])


@pytest.mark.parametrize("pieces", [[3] * 5, [4, 4, 5], [1] * 13, [7]])
@pytest.mark.parametrize("parts", [1, 2, 3, 11])
def test_cutting_keeps_every_piece_whole_and_in_order(pieces: list[int], parts: int) -> None:
    shares = cutting.cut(pieces, parts)
    assert len(shares) == parts
    assert [piece for share in shares for piece in share] == pieces
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for micro in (3, 8, 100):
        for share in shares:
            sizes = cutting.micro_batch_sizes(share, micro)
            assert sum(sizes) == sum(share)
            assert all(size <= max(micro, max(share)) for size in sizes)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
@pytest.mark.parametrize(("examples", "batch_size"), [(50_000, 4096), (1024, 32), (7, 7), (13, 5)])
def test_walking_the_steps_visits_what_the_formulas_say(examples: int, batch_size: int, last_batch: LastBatch) -> None:
    spec = recipe(batch_size, Epochs(3), last_batch)
    seen = 0
    for step in range(batching.total_steps(spec, examples)):
        assert batching.examples_seen(step, examples, spec) == seen
        epoch, start, stop = batching.batch_bounds(step, examples, spec)
        assert 0 < stop - start <= batch_size
        seen += stop - start
    assert epoch == 2
    assert seen == 3 * batching.examples_per_epoch(spec, examples)
    dropped = examples % batch_size if last_batch == "drop" else 0
    assert seen == 3 * (examples - dropped)


def test_budgets_in_epochs_steps_and_examples_agree() -> None:
    assert batching.total_steps(recipe(128, Epochs(100)), 50_000) == 39_100  # the paper's ResNet44
    assert batching.total_steps(recipe(4096, Epochs(100)), 50_000) == 1_300
    assert batching.total_steps(recipe(4096, Examples(5_000_000)), 50_000) == 1_300
    assert batching.total_steps(recipe(4096, Steps(1_300)), 50_000) == 1_300
    assert batching.total_steps(recipe(32, Epochs(0.001)), 1024) == 1


def test_a_batch_larger_than_the_data_is_refused_with_a_way_out() -> None:
    with pytest.raises(RequestError, match="batch_size 2048 is larger than the training set of 1024 examples; use"):
        batching.total_steps(recipe(2048, Epochs(1)), 1024)


@pytest.mark.parametrize("total", [1, 2, 3, 40, 640, 39_100])
@pytest.mark.parametrize("evaluations", [1, 3, 20])
def test_a_run_is_looked_at_early_often_and_at_its_last_step(total: int, evaluations: int) -> None:
    log_spaced, even = batching.measured_steps(total, evaluations)
    assert log_spaced[0] == 1
    assert log_spaced[-1] == even[-1] == total
    assert len(even) == min(evaluations, total)
    assert len(log_spaced) <= 4 * math.log2(max(total, 2)) + 2
    assert all(1 <= step <= total for step in log_spaced + even)
