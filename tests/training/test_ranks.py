"""Law 1 over ranks: real processes, gloo, DistributedDataParallel. One spawn serves all cases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from rank_worker import CASES, RANKS, continued, noise_scale, options, rank_main, run_case, watched
from rebatch.distributed import World
from toy import assert_same_state


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(rank_main, args=(folder,), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_ranks_do_not_change_the_run(case: str, ranks: list[dict[str, Any]]) -> None:
    rows, weights, test_loss = run_case(World(), **options(case))
    for rank in range(RANKS):
        rank_rows, rank_weights, rank_test_loss = ranks[rank]["outcomes"][case]
        for found, expected in zip(rank_rows, rows, strict=True):
            assert found == pytest.approx(expected, rel=1e-10)
        assert_same_state(rank_weights, weights, rtol=1e-10)
        assert rank_test_loss == pytest.approx(test_loss, rel=1e-12)


def test_every_rank_ends_with_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    for case in CASES:
        assert_same_state(ranks[0]["outcomes"][case][1], ranks[1]["outcomes"][case][1])


def test_gather_joins_uneven_parts_in_rank_order(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["gathered"].tolist() == [[1.0, 1.0]]


def test_ranks_with_plain_batch_norm_end_as_one_model(ranks: list[dict[str, Any]]) -> None:
    for first, second in zip(ranks[0]["plain"], ranks[1]["plain"], strict=True):
        assert_same_state(first, second)


def test_ranks_resume_bit_for_bit_dropout_included(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        undisturbed, resumed = rank["resumed"]
        assert resumed == undisturbed


def test_a_run_of_one_rank_goes_on_over_several_as_it_would_alone(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    alone = continued(World(), tmp_path)
    assert alone[0]["step"] == 10
    for rank in ranks:
        for found, expected in zip(rank["continued"], alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-10)


def test_ranks_do_not_change_the_noise_scale(ranks: list[dict[str, Any]]) -> None:
    for alone, at in ((noise_scale(World()), 0), (watched(World()), 1)):
        for rank in ranks:
            assert rank["noise"][at] == pytest.approx(alone, rel=1e-10)
        assert alone[2] > 2
