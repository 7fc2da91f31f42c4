from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from rebatch import draws
from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.batches import BatchSource, prepare
from rebatch.data.sets import DataSet
from reference import augmentations as twins

CROP, FLIP, NORMALIZE = PadCrop(padding=2, fill=127), Flip(), Normalize((0.5, 0.4), (0.5, 0.3))


def images(examples: int = 23) -> DataSet:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (examples, 2, 5, 7), generator=rng, dtype=torch.uint8)
    return DataSet(pixels, torch.arange(examples))


def source(**options: object) -> BatchSource:
    return BatchSource(images(), (CROP, FLIP), NORMALIZE, seed=3, **options)


INDICES = torch.tensor([7, 2, 19, 2, 22, 0, 11])


def test_a_batch_is_rebuilt_from_the_tables_of_its_epoch() -> None:
    data = images()
    crops = torch.from_numpy(CROP.draw(partial(draws.generator, 3, "pad_crop"), 5, len(data)))
    flips = torch.from_numpy(FLIP.draw(partial(draws.generator, 3, "flip"), 5, len(data)))
    cropped = twins.one_by_one(twins.pad_crop, CROP, data.inputs[INDICES], crops[INDICES])
    expected = NORMALIZE(twins.one_by_one(twins.flip, FLIP, cropped, flips[INDICES]))
    inputs, targets = source().batch(5, INDICES)
    assert torch.equal(inputs, expected)
    assert torch.equal(targets, INDICES)


@pytest.mark.parametrize("sizes", [[7], [3, 4], [2, 2, 2, 1], [1] * 7])
def test_micro_batches_joined_are_the_whole_batch_bit_for_bit(sizes: list[int]) -> None:
    batches = source()
    whole = batches.batch(2, INDICES)
    parts = [batches.batch(2, part) for part in torch.split(INDICES, sizes)]
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), whole[0])
    assert torch.equal(torch.cat([targets for _, targets in parts]), whole[1])


def test_going_back_to_an_earlier_epoch_gives_the_same_bits() -> None:
    batches = source()
    first = batches.batch(0, INDICES)[0]
    second = batches.batch(1, INDICES)[0]
    assert torch.equal(batches.batch(0, INDICES)[0], first)
    assert not torch.equal(first, second)


def test_the_tables_of_an_epoch_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    real = draws.generator

    def counted(seed: int, purpose: str, epoch: int) -> np.random.Generator:
        seen.append((purpose, epoch))
        return real(seed, purpose, epoch)

    monkeypatch.setattr("rebatch.data.batches.draws.generator", counted)
    batches = source()
    for epoch in (0, 0, 1, 1):
        batches.batch(epoch, INDICES)
    assert seen == [("pad_crop", 0), ("flip", 0), ("pad_crop", 1), ("flip", 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_inputs_without_normalize_pass_through(dtype: torch.dtype) -> None:
    data = DataSet(torch.rand(23, 5, dtype=dtype, generator=torch.Generator().manual_seed(0)), torch.arange(23))
    inputs, _ = BatchSource(data, seed=0).batch(0, INDICES)
    assert inputs.dtype == dtype
    assert torch.equal(inputs, data.inputs[INDICES])


def test_two_augmentations_never_share_their_draws() -> None:
    with pytest.raises(ValueError, match="purposes of their own, got flip, flip"):
        BatchSource(images(), (Flip(), Flip()), seed=0)


@pytest.mark.parametrize("which", [slice(3, 8), torch.tensor([3, 4, 5, 6, 7])])
def test_evaluation_sees_the_examples_unchanged_but_for_scale(which: slice | Tensor) -> None:
    data = images()
    inputs, targets = prepare(data, which, NORMALIZE)
    torch.testing.assert_close(inputs.double(), twins.normalize(NORMALIZE, data.inputs[3:8]), rtol=0, atol=1e-6)
    assert targets.tolist() == [3, 4, 5, 6, 7]
    assert torch.equal(prepare(data, which, None)[0], data.inputs[3:8])
