import numpy as np
import pytest
import torch

from rebatch.data.augment import Flip, Normalize
from rebatch.data.sets import DataSet, Splits, hold_out, nested_order
from rebatch.errors import RequestError


def numbered(examples: int) -> DataSet:
    """Examples whose inputs tell which they are."""
    return DataSet(torch.arange(examples, dtype=torch.float32).view(-1, 1).repeat(1, 3), torch.arange(examples))


def test_as_many_targets_as_inputs() -> None:
    with pytest.raises(ValueError, match="equally many, got 5 inputs and 3 targets"):
        DataSet(torch.zeros(5, 2), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("indices", [[5, 2, 2], np.array([5, 2, 2]), torch.tensor([5, 2, 2])])
def test_a_subset_holds_the_examples_in_the_order_asked_for(indices: list[int]) -> None:
    part = numbered(7).subset(indices)
    assert len(part) == 3
    assert part.inputs[:, 0].tolist() == [5.0, 2.0, 2.0]
    assert part.targets.tolist() == [5, 2, 2]


def test_held_out_examples_are_a_partition_in_the_order_of_the_data() -> None:
    train, validation = hold_out(numbered(17), 5, seed=0)
    assert (len(train), len(validation)) == (12, 5)
    assert sorted([*train.targets.tolist(), *validation.targets.tolist()]) == list(range(17))
    for part in (train, validation):
        assert part.targets.tolist() == sorted(part.targets.tolist())
        assert torch.equal(part.inputs[:, 0].long(), part.targets)


def test_the_seed_decides_what_is_held_out() -> None:
    held = [hold_out(numbered(101), 11, seed)[1].targets.tolist() for seed in (1, 1, 2)]
    assert held[0] == held[1]
    assert held[0] != held[2]


@pytest.mark.parametrize("validation", [0, 7, 8])
def test_both_sides_of_a_split_keep_examples(validation: int) -> None:
    with pytest.raises(RequestError, match=f"validation must be from 1 to 6 of 7 examples, got {validation}"):
        hold_out(numbered(7), validation, seed=0)


def test_moving_splits_keeps_how_inputs_are_prepared() -> None:
    splits = Splits(numbered(5), numbered(3), numbered(2), (Flip(),), Normalize((0.5,), (0.5,)))
    moved = splits.to("meta")
    assert {part.targets.device.type for part in (moved.train, moved.validation, moved.test)} == {"meta"}
    assert (len(moved.train), len(moved.validation), len(moved.test)) == (5, 3, 2)
    assert (moved.augmentations, moved.normalize) == (splits.augmentations, splits.normalize)


def test_the_first_of_the_nested_order_are_as_even_over_classes_as_the_data_allow() -> None:
    targets = torch.tensor([0] * 11 + [1] * 7 + [2] * 3)[torch.randperm(21, generator=torch.Generator().manual_seed(3))]
    order = nested_order(targets)
    assert sorted(order.tolist()) == list(range(21))
    for size in range(1, 22):
        counts = torch.bincount(targets[order[:size]], minlength=3).tolist()
        full = min(size // 3, 3)
        assert min(counts) >= full
        left = [count for count, members in zip(counts, (11, 7, 3), strict=True) if count < members]
        assert max(counts) - min(left, default=max(counts)) <= 1  # only a class that has run out lags behind
    assert torch.equal(order, nested_order(targets))


def test_the_nested_order_is_random_within_a_class() -> None:
    order = nested_order(torch.zeros(1000, dtype=torch.int64))
    assert not torch.equal(order, torch.arange(1000))
    first_half = (order[:500] < 500).sum().item()
    assert abs(first_half - 250) < 4 * (1000 / 16) ** 0.5
