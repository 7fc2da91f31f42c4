from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data import twins
from rebatch import draws
from rebatch.data.augment import Augmentation, Flip, Normalize, PadCrop

Case = tuple[Augmentation, Callable[[Any, Tensor, Tensor], Tensor]]

AUGMENTATIONS: dict[str, Case] = {
    "crop": (PadCrop(padding=2), twins.pad_crop),
    "crop with gray": (PadCrop(padding=3, fill=127), twins.pad_crop),
    "crop by nothing": (PadCrop(padding=0), twins.pad_crop),
    "flip": (Flip(), twins.flip),
}
SHAPES = [(5, 1, 7, 11), (3, 2, 11, 5), (1, 3, 2, 2)]


@pytest.fixture(params=AUGMENTATIONS)
def case(request: pytest.FixtureRequest) -> Case:
    return AUGMENTATIONS[request.param]


def images_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def table_of(augmentation: Augmentation, examples: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(augmentation.draw(partial(draws.generator, seed, augmentation.purpose), 0, examples))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_batch_is_changed_as_its_examples_are_one_by_one(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    augmentation, twin = case
    images, draws = images_of(shape, dtype), table_of(augmentation, shape[0])
    changed = augmentation.apply(images, draws)
    assert changed.dtype == dtype
    assert torch.equal(changed, twin(augmentation, images, draws))


def test_the_memory_format_does_not_change_the_pixels(case: Case) -> None:
    augmentation, twin = case
    images, draws = images_of((5, 3, 7, 11), torch.uint8), table_of(augmentation, 5)
    shuffled = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmentation.apply(shuffled, draws), twin(augmentation, images, draws))


def test_the_input_stays_as_it_is(case: Case) -> None:
    augmentation, _ = case
    images = images_of((5, 1, 7, 11), torch.uint8)
    before = images.clone()
    augmentation.apply(images, table_of(augmentation, 5)).zero_()
    assert torch.equal(images, before)


def test_draws_are_small_rows_that_the_generator_alone_decides(case: Case) -> None:
    augmentation, _ = case
    first, again, other = (table_of(augmentation, 101, seed) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.shape[0] == 101
    assert torch.equal(first, again)
    assert augmentation == PadCrop(padding=0) or not torch.equal(first, other)


def test_every_offset_of_a_crop_is_drawn_equally_often() -> None:
    counts = table_of(PadCrop(padding=2), 10_000).long() @ torch.tensor([5, 1])
    share = counts.bincount(minlength=25) / 10_000
    assert (share - 1 / 25).abs().max() < 4 * (1 / 25 * 24 / 25 / 10_000) ** 0.5


def test_half_of_the_images_are_flipped() -> None:
    share = table_of(Flip(), 10_000).double().mean().item()
    assert abs(share - 0.5) < 4 * 0.5 / 10_000**0.5


@pytest.mark.parametrize("padding", [-1, 128])
def test_padding_that_a_table_of_bytes_cannot_hold_is_refused(padding: int) -> None:
    with pytest.raises(ValueError, match=f"padding must be from 0 to 127 pixels, got {padding}"):
        PadCrop(padding=padding)


def test_the_widest_padding_is_drawn_and_applied() -> None:
    crop = PadCrop(padding=127, fill=9)
    images, draws = images_of((2, 1, 2, 3), torch.uint8), torch.tensor([[254, 254], [127, 128]], dtype=torch.uint8)
    assert torch.equal(crop.apply(images, draws), twins.pad_crop(crop, images, draws))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize_is_the_formula_per_channel(dtype: torch.dtype) -> None:
    by = Normalize((0.49, 0.5), (0.2, 0.3))
    images = images_of((5, 2, 7, 11), dtype)
    before = images.clone()
    result = by(images)
    assert result.dtype == torch.float32
    # Two float32 roundings of values up to 3.
    torch.testing.assert_close(result.double(), twins.normalize(by, images), rtol=0, atol=1e-6)
    assert torch.equal(images, before)


def test_normalize_is_scale_then_shift_bit_for_bit() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    scale, shift = np.float32(1 / (255 * 0.3081)), np.float32(-0.1307 / 0.3081)
    expected = [np.float32(np.float32(pixel) * scale) + shift for pixel in range(256)]
    assert Normalize((0.1307,), (0.3081,))(images).view(-1).tolist() == [float(value) for value in expected]


def test_normalize_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one positive std per channel"):
        Normalize((0.5,), (0.0,))
    with pytest.raises(ValueError, match="one mean and one positive std per channel"):
        Normalize((0.5, 0.5), (0.5,))
    with pytest.raises(ValueError, match="normalize has 1 channels, images have 3"):
        Normalize((0.5,), (0.5,))(images_of((2, 3, 5, 7), torch.uint8))
