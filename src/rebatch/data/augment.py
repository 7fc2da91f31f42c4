"""Random changes of whole batches on the tensors' device, each a function of a table of draws.

Times are medians on one CPU thread of a shared machine, for two batches of uint8: (128, 3, 32, 32) and (512, 3, 32, 32)
in `_reflect` and `Cutout`, (128, 1, 28, 28) and (4096, 3, 32, 32) elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Stream = Callable[[int], np.random.Generator]
"""From an epoch to the generator of an augmentation's draws in it, each time at its beginning."""


class Augmentation(Protocol):
    """A random change of images whose randomness is a table with one row per example."""

    @property
    def purpose(self) -> str:
        """Names the stream of draws; no two augmentations of a set share one."""
        ...

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """The draws of `epoch`, shape (examples, k), of a small integer type; any epoch's stream may be used."""
        ...

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """New images (B, C, H, W) of any dtype, changed as rows `draws` (B, k) of the table say, on their device."""
        ...


Fill = int | Literal["reflect"]
"""What lies outside an image: pixels of one value, or the image itself mirrored at its outermost pixels."""


@dataclass(frozen=True)
class PadCrop:
    """Pad every side by `padding` pixels of `fill`, then crop the original size at a random offset.

    All offsets, `padding` to either side, are equally likely. Page (2018) pads 4 pixels by reflection, Hoffer et al.
    (2017) by a constant.
    """

    padding: int
    fill: Fill = 0

    purpose: ClassVar[str] = "pad_crop"

    def __post_init__(self) -> None:
        _check_border("padding", self.padding, self.fill)

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows of offsets (down, right), each from 0 to 2 padding."""
        return stream(epoch).integers(0, 2 * self.padding + 1, size=(examples, 2), dtype=np.uint8)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop every image at its offset.

        Raises:
            ValueError: an image is too small for its reflection.
        """
        return _crop(_pad(images, self.padding, self.fill), draws.long(), images.shape)


@dataclass(frozen=True)
class Translate:
    """Move an image by up to `pixels` pixels down or up and right or left; `fill` is what comes into sight.

    All moves are equally likely. The images are those of `PadCrop`; the draws are the moves themselves, with a sign.
    airbench (Jordan, 2024) moves by 2 pixels and reflects.
    """

    pixels: int
    fill: Fill = 0

    purpose: ClassVar[str] = "translate"

    def __post_init__(self) -> None:
        _check_border("pixels", self.pixels, self.fill)

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows of moves (down, right), each from -pixels to pixels."""
        return stream(epoch).integers(-self.pixels, self.pixels + 1, size=(examples, 2), dtype=np.int8)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Move every image as drawn.

        Raises:
            ValueError: an image is too small for its reflection.
        """
        return _crop(_pad(images, self.pixels, self.fill), self.pixels - draws.long(), images.shape)


def _check_border(name: str, pixels: int, fill: Fill) -> None:
    if not 0 <= pixels <= 127:
        raise ValueError(f"{name} must be from 0 to 127 pixels, got {pixels}")
    if isinstance(fill, str) and fill != "reflect":
        raise ValueError(f"fill must be the value of a pixel or 'reflect', got {fill!r}")


def _pad(images: Tensor, margin: int, fill: Fill) -> Tensor:
    count, channels, height, width = images.shape
    if fill == "reflect":
        if margin >= min(height, width):
            limit = f"at most {min(height, width) - 1} pixels for images of {height} x {width}"
            raise ValueError(f"a reflection must be smaller than the image, {limit}, got {margin}")
        return _reflect(_reflect(images, margin, 2), margin, 3)
    padded = images.new_full((count, channels, height + 2 * margin, width + 2 * margin), fill)
    padded[:, :, margin : margin + height, margin : margin + width] = images
    return padded


def _reflect(images: Tensor, margin: int, dim: int) -> Tensor:
    """Mirror both ends of `dim` outwards; the outermost pixel is where the mirror stands, so it is not repeated."""
    # Both dimensions by 4 pixels: 0.28 ms and 1.3 ms. Slices copied into a new tensor take as long, columns copied one
    # by one 0.22 and 1.6, a table of indices 0.6 and 10, torch's own padding by way of floats 1.1 and 7.1. To pad the
    # columns alone and mirror the numbers of the rows saves a tenth.
    size = images.shape[dim]
    before, after = images.narrow(dim, 1, margin), images.narrow(dim, size - 1 - margin, margin)
    return torch.cat([before.flip(dim), images, after.flip(dim)], dim)


def _crop(padded: Tensor, offsets: Tensor, shape: torch.Size) -> Tensor:
    """Images of `shape` from `offsets` (B, 2) of the padded ones: rows, each a run of the batch laid out flat."""
    # With padding by a constant, 0.09 ms and 5.7 ms for Hoffer's batches, 4 of that the padding. Windows with an
    # advanced index take 0.13 and 16, gather 0.2 and 28, one slice per distinct offset 0.4 and 25.
    count, channels, height, width = shape
    if count == 0:
        return padded.new_empty(shape)
    tall, wide = padded.shape[2:]
    offset = offsets[:, 0] * wide + offsets[:, 1]
    planes = torch.arange(count * channels, device=padded.device).view(count, channels, 1) * (tall * wide)
    rows = torch.arange(height, device=padded.device) * wide
    starts = (planes + rows) + offset.view(count, 1, 1)
    return padded.flatten().unfold(0, width, 1).index_select(0, starts.view(-1)).view(shape)


@dataclass(frozen=True)
class Flip:
    """Mirror an image left to right with probability one half."""

    purpose: ClassVar[str] = "flip"

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows of one number: 1 to mirror, 0 to leave."""
        return stream(epoch).integers(0, 2, size=(examples, 1), dtype=np.uint8)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Choose every image from the batch and its mirror, laid end to end."""
        # 0.05 ms and 6 ms; torch.where takes 0.11 and 14, a gather of columns 0.11 and 11. Mirroring only the drawn
        # images costs the same, and finding them waits for the device.
        both = torch.cat([images, images.flip(-1)])
        chosen = torch.arange(len(images), device=images.device) + len(images) * draws[:, 0].long()
        return both.index_select(0, chosen)


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirror half of the images in epoch 0, as `Flip` does, and from then on each time the other half.

    So any two epochs that follow each other show both views of every image, where independent flips repeat half of them
    (airbench; Jordan, 2024, arXiv 2404.00498).
    """

    # Flip's own stream, so that runs with the one and with the other start with the same epoch.
    purpose: ClassVar[str] = Flip.purpose

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows of one number: 1 to mirror, 0 to leave; epoch 0's in even epochs, the opposite in odd ones."""
        first = Flip().draw(stream, 0, examples)
        return 1 - first if epoch % 2 else first

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """As `Flip`."""
        return Flip().apply(images, draws)


@dataclass(frozen=True)
class Cutout:
    """Set a square of `size` pixels, at a random place wholly inside the image, to `fill`.

    Every place is equally likely, up to one part in 2^31 / room, and every image loses as many pixels. This is the
    convention of cifar10-fast (Page, 2018), which cuts 8 pixels after crop and flip and fills in the mean of the data:
    about 120 on CIFAR. DeVries and Taylor (2017, arXiv 1708.04552) draw the *centre* anywhere in the image and clip the
    square at the border, so that some images lose only a corner; for that, this is no substitute.
    """

    size: int
    fill: int = 0

    purpose: ClassVar[str] = "cutout"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must be 0 pixels or more, got {self.size}")

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows (down, right), shares of the room that an image leaves."""
        return shares_of_room(stream(epoch), examples)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Write `fill` to the square's places in every plane of a copy.

        Raises:
            ValueError: the square is larger than the images.
        """
        # 0.11 ms and 0.43 ms; masked_fill takes 0.43 and 1.8, torch.where 0.55 and 2.1, multiplying with a mask 0.25
        # and 2.1, one index for all pixels of the batch 0.11 and 0.9. Runs, as in the crop, take 0.07 and 0.28, but
        # they write to a view that overlaps itself, which not every device need do right.
        count, channels, height, width = images.shape
        if self.size > min(height, width):
            limit = f"at most {min(height, width)} pixels for images of {height} x {width}"
            raise ValueError(f"size must be {limit}, got {self.size}")
        corners = _share(draws[:, 0], height - self.size) * width + _share(draws[:, 1], width - self.size)
        side = torch.arange(self.size, device=images.device)
        square = (side.view(-1, 1) * width + side).view(-1)
        places = (corners.view(count, 1, 1) + square).expand(count, channels, self.size**2)
        result = images.clone(memory_format=torch.contiguous_format)
        result.view(count, channels, height * width).scatter_(2, places, self.fill)
        return result


def shares_of_room(rng: np.random.Generator, examples: int) -> NDArray[np.integer]:
    """Rows (down, right) of 31 random bits: shares of whatever room an image turns out to have."""
    return rng.integers(0, 2**31, size=(examples, 2), dtype=np.int32)


def _share(draws: Tensor, room: int) -> Tensor:
    """0 to `room`, each equally often up to one part in 2^31 / room, as `decoding` has it for one image."""
    return draws.long() * (room + 1) >> 31


@dataclass(frozen=True)
class Normalize:
    """Images (B, C, H, W) of 0..255 to float32 (x / 255 - mean) / std, one mean and std per channel.

    `decode` is for sets whose inputs are no images yet, but numbers (B,) of image files: it makes images of them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    decode: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0.0) <= 0.0:
            raise ValueError(f"one mean and one positive std per channel needed, got {self.mean} and {self.std}")

    def __call__(self, images: Tensor) -> Tensor:
        """New float32 images; the input is not changed."""
        if self.decode is not None and images.dim() == 1:
            images = self.decode(images)
        if images.shape[1] != len(self.mean):
            raise ValueError(f"normalize has {len(self.mean)} channels, images have {images.shape[1]}")
        # A copy, then in place: 0.025 ms and 25 ms. A table of the 256 values takes 0.07 and 86; addcmul 0.06 and 60,
        # and it may fuse, so that the last bit of a pixel would depend on its place in the batch.
        scale, shift = _scale_and_shift(self, images.device)
        return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


IMAGENET_STATISTICS = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of ImageNet's pixels, which the paper takes for CIFAR too."""


@lru_cache(maxsize=64)
def _scale_and_shift(normalize: Normalize, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as x scale + shift, each rounded once; kept, so that no batch waits for a copy."""
    scale = [1 / (255 * std) for std in normalize.std]
    shift = [-mean / std for mean, std in zip(normalize.mean, normalize.std, strict=True)]
    return tuple(torch.tensor(row, dtype=torch.float32, device=device).view(-1, 1, 1) for row in (scale, shift))  # type: ignore[return-value]
