"""Slow twins of the augmentations: one example and one pixel at a time."""

from torch import Tensor

from rebatch.data.augment import Flip, Normalize, PadCrop


def pad_crop(crop: PadCrop, images: Tensor, draws: Tensor) -> Tensor:
    result = images.clone()
    count, channels, height, width = images.shape
    for n in range(count):
        down, right = (int(draw) - crop.padding for draw in draws[n])
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    inside = 0 <= y + down < height and 0 <= x + right < width
                    result[n, c, y, x] = images[n, c, y + down, x + right] if inside else crop.fill
    return result


def flip(_: Flip, images: Tensor, draws: Tensor) -> Tensor:
    result = images.clone()
    for n in range(len(images)):
        if draws[n, 0]:
            for x in range(images.shape[3]):
                result[n, :, :, x] = images[n, :, :, images.shape[3] - 1 - x]
    return result


def normalize(by: Normalize, images: Tensor) -> Tensor:
    result = images.double()
    for c, (mean, std) in enumerate(zip(by.mean, by.std, strict=True)):
        result[:, c] = (images[:, c].double() / 255 - mean) / std
    return result
