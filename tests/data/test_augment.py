from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from rebatch import draws
from rebatch.data.augment import AlternatingFlip, Augmentation, Cutout, Flip, Normalize, PadCrop, Translate
from rebatch.data.batches import BatchSource
from rebatch.data.sets import DataSet
from reference import augmentations as twins

Case = tuple[Augmentation, twins.Twin]

AUGMENTATIONS: dict[str, Case] = {
    "crop": (PadCrop(padding=2), twins.pad_crop),
    "crop with gray": (PadCrop(padding=3, fill=127), twins.pad_crop),
    "crop by nothing": (PadCrop(padding=0), twins.pad_crop),
    "crop of a reflection": (PadCrop(padding=1, fill="reflect"), twins.pad_crop),
    "move": (Translate(pixels=2, fill=127), twins.translate),
    "move in a reflection": (Translate(pixels=1, fill="reflect"), twins.translate),
    "flip": (Flip(), twins.flip),
    "flip in turns": (AlternatingFlip(), twins.flip),
    "cut out": (Cutout(size=2, fill=127), twins.cutout),
    "cut out a pixel": (Cutout(size=1), twins.cutout),
    "cut out nothing": (Cutout(size=0), twins.cutout),
}
SHAPES = [(5, 1, 7, 11), (3, 2, 11, 5), (1, 3, 2, 2), (0, 3, 5, 7)]
DTYPES = [torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=AUGMENTATIONS)
def case(request: pytest.FixtureRequest) -> Case:
    return AUGMENTATIONS[request.param]


@pytest.fixture
def augmentation(case: Case) -> Augmentation:
    return case[0]


def images_of(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def table_of(augmentation: Augmentation, examples: int, seed: int = 0, epoch: int = 0) -> Tensor:
    stream = partial(draws.generator, seed, augmentation.purpose)
    return torch.from_numpy(augmentation.draw(stream, epoch, examples))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_changed_as_its_examples_are_one_by_one(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    augmentation, twin = case
    images, table = images_of(shape, dtype), table_of(augmentation, shape[0])
    changed = augmentation.apply(images, table)
    assert changed.dtype == dtype
    assert torch.equal(changed, twins.one_by_one(twin, augmentation, images, table))


def test_the_memory_format_does_not_change_the_pixels(case: Case) -> None:
    augmentation, twin = case
    images, table = images_of((5, 3, 7, 11)), table_of(augmentation, 5)
    shuffled = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmentation.apply(shuffled, table), twins.one_by_one(twin, augmentation, images, table))


def test_the_input_stays_as_it_is(augmentation: Augmentation) -> None:
    images = images_of((5, 1, 7, 11))
    before = images.clone()
    augmentation.apply(images, table_of(augmentation, 5)).zero_()
    assert torch.equal(images, before)


def test_nothing_waits_for_the_values_on_a_device(augmentation: Augmentation) -> None:
    # Tensors on "meta" have no values: whatever reads one, to find its way or to size a result, raises.
    images, table = images_of((5, 3, 7, 11)).to("meta"), table_of(augmentation, 5).to("meta")
    changed = augmentation.apply(images, table)
    assert (changed.shape, changed.dtype, changed.device) == (images.shape, images.dtype, images.device)


def test_an_example_of_an_epoch_is_the_same_in_every_batch(augmentation: Augmentation) -> None:
    data = DataSet(images_of((23, 3, 7, 11)), torch.arange(23))
    whole, _ = BatchSource(data, (augmentation,), seed=3).batch(4, torch.arange(23))
    for indices in ([7, 2, 19, 2], [22], [], list(reversed(range(23)))):
        source = BatchSource(data, (augmentation,), seed=3)
        source.batch(5, torch.tensor([3, 4]))
        assert torch.equal(source.batch(4, torch.tensor(indices, dtype=torch.int64))[0], whole[indices])


def test_draws_are_small_rows_that_seed_and_epoch_alone_decide(augmentation: Augmentation) -> None:
    first, again, other = (table_of(augmentation, 101, seed) for seed in (1, 1, 2))
    assert first.dtype.itemsize <= 4
    assert first.shape[0] == 101
    assert table_of(augmentation, 0).shape == (0, first.shape[1])
    assert torch.equal(first, again)
    assert augmentation == PadCrop(padding=0) or not torch.equal(first, other)
    assert augmentation == PadCrop(padding=0) or not torch.equal(first, table_of(augmentation, 101, 1, epoch=1))


# A table that changes would change every run that was kept.
@pytest.mark.parametrize(
    ("augmentation", "epoch", "rows"),
    [
        (PadCrop(padding=2), 0, [[1, 0], [2, 3], [3, 1]]),
        (PadCrop(padding=4, fill=127), 7, [[5, 4], [8, 1], [5, 7]]),
        (PadCrop(padding=4, fill="reflect"), 7, [[5, 4], [8, 1], [5, 7]]),
        (Flip(), 7, [[0], [1], [0]]),
        (AlternatingFlip(), 7, [[0], [1], [1]]),
        (Translate(pixels=2), 7, [[1, -2], [-1, 2], [-1, -1]]),
        (Cutout(size=8), 7, [[1476290286, 950860594], [458137794, 1165206425], [782254453, 422985566]]),
    ],
)
def test_tables_stay_what_they_were(augmentation: Augmentation, epoch: int, rows: list[list[int]]) -> None:
    assert table_of(augmentation, 1001, seed=3, epoch=epoch)[:3].tolist() == rows


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    ("augmentation", "places"),
    [
        (PadCrop(padding=2), 5 * 5),
        (PadCrop(padding=2, fill="reflect"), 5 * 5),
        (Translate(pixels=1), 3 * 3),
        (Translate(pixels=2, fill="reflect"), 5 * 5),
        (Flip(), 2),
        (AlternatingFlip(), 2),
        (Cutout(size=3, fill=255), 3 * 5),
    ],
)
def test_every_change_that_is_possible_is_equally_likely(augmentation: Augmentation, places: int, epoch: int) -> None:
    image = torch.arange(5 * 7, dtype=torch.uint8).view(1, 1, 5, 7).expand(10_000, 1, 5, 7)
    changed = augmentation.apply(image, table_of(augmentation, 10_000, epoch=epoch))
    different, counts = np.unique(changed.flatten(1).numpy(), axis=0, return_counts=True)
    assert len(different) == places
    share = 1 / places
    assert np.abs(counts / 10_000 - share).max() < 4 * (share * (1 - share) / 10_000) ** 0.5


def test_any_two_epochs_in_a_row_show_both_views() -> None:
    images, flip = images_of((101, 1, 2, 3)), AlternatingFlip()
    shown = [flip.apply(images, table_of(flip, 101, seed=3, epoch=epoch)) for epoch in range(5)]
    for before, after in pairwise(shown):
        assert torch.equal(after, before.flip(-1))
    assert torch.equal(shown[0], Flip().apply(images, table_of(Flip(), 101, seed=3)))


def test_a_reflection_is_what_numpy_pads_with() -> None:
    # As cifar10-fast does it: np.pad(..., mode="reflect").
    crop, image = PadCrop(padding=4, fill="reflect"), images_of((1, 3, 5, 7))
    padded = np.pad(image[0].numpy(), [(0, 0), (4, 4), (4, 4)], mode="reflect")
    for down in range(9):
        for right in range(9):
            cropped = crop.apply(image, torch.tensor([[down, right]], dtype=torch.uint8))
            assert np.array_equal(cropped[0].numpy(), padded[:, down : down + 5, right : right + 7])


def test_moves_are_the_crops_of_the_opposite_offsets() -> None:
    images, moves = images_of((25, 2, 5, 7)), torch.cartesian_prod(*[torch.arange(-2, 3, dtype=torch.int8)] * 2)
    crops = (2 - moves).to(torch.uint8)
    for fill in (7, "reflect"):
        assert torch.equal(Translate(2, fill).apply(images, moves), PadCrop(2, fill).apply(images, crops))


def test_the_square_reaches_all_corners_and_stays_inside() -> None:
    ends = torch.cartesian_prod(*[torch.tensor([0, 2**31 - 1], dtype=torch.int32)] * 2)
    cut = Cutout(size=2, fill=1).apply(torch.zeros(4, 1, 3, 5, dtype=torch.uint8), ends)
    assert cut.sum((1, 2, 3)).tolist() == [4] * 4
    assert [image.nonzero()[0].tolist()[1:] for image in cut] == [[0, 0], [0, 3], [1, 0], [1, 3]]


@pytest.mark.parametrize("pixels", [-1, 128])
def test_moves_that_a_table_of_bytes_cannot_hold_are_refused(pixels: int) -> None:
    with pytest.raises(ValueError, match=f"padding must be from 0 to 127 pixels, got {pixels}"):
        PadCrop(padding=pixels)
    with pytest.raises(ValueError, match=f"pixels must be from 0 to 127 pixels, got {pixels}"):
        Translate(pixels=pixels)


def test_the_widest_moves_are_drawn_and_applied() -> None:
    images = images_of((2, 1, 2, 3))
    crop, offsets = PadCrop(padding=127, fill=9), torch.tensor([[254, 254], [127, 128]], dtype=torch.uint8)
    assert torch.equal(crop.apply(images, offsets), twins.one_by_one(twins.pad_crop, crop, images, offsets))
    move, moves = Translate(pixels=127, fill=9), torch.tensor([[-127, 127], [0, -1]], dtype=torch.int8)
    assert torch.equal(move.apply(images, moves), twins.one_by_one(twins.translate, move, images, moves))
    assert set(table_of(crop, 10_000).view(-1).tolist()) == set(range(255))
    assert set(table_of(move, 10_000).view(-1).tolist()) == set(range(-127, 128))


@pytest.mark.parametrize("wide", [PadCrop(padding=5, fill="reflect"), Translate(pixels=5, fill="reflect")])
def test_a_reflection_wider_than_the_image_is_refused(wide: Augmentation) -> None:
    assert wide.apply(images_of((2, 1, 6, 7)), table_of(wide, 2)).shape == (2, 1, 6, 7)
    with pytest.raises(ValueError, match="smaller than the image, at most 4 pixels for images of 5 x 7, got 5"):
        wide.apply(images_of((2, 1, 5, 7)), table_of(wide, 2))


def test_a_fill_that_is_no_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="fill must be the value of a pixel or 'reflect', got 'mirror'"):
        PadCrop(padding=1, fill="mirror")  # type: ignore[arg-type]


def test_a_square_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be 0 pixels or more, got -1"):
        Cutout(size=-1)
    with pytest.raises(ValueError, match="size must be at most 5 pixels for images of 5 x 7, got 6"):
        Cutout(size=6).apply(images_of((2, 1, 5, 7)), table_of(Cutout(size=6), 2))


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
