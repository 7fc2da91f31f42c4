"""The slow, obviously right twins of the augmentations: one image, then one pixel at a time.

A twin takes an augmentation, an image (C, H, W) and the example's row of draws.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rebatch.data.augment import AlternatingFlip, Cutout, Fill, Flip, Normalize, PadCrop, Translate

Twin = Callable[[Any, Tensor, list[int]], Tensor]


def one_by_one(twin: Twin, augmentation: object, images: Tensor, draws: Tensor) -> Tensor:
    result = torch.empty_like(images)
    for n in range(len(images)):
        result[n] = twin(augmentation, images[n], draws[n].tolist())
    return result


def pad_crop(crop: PadCrop, image: Tensor, draws: list[int]) -> Tensor:
    down, right = draws
    return moved(image, crop.padding - down, crop.padding - right, crop.fill)


def translate(by: Translate, image: Tensor, draws: list[int]) -> Tensor:
    down, right = draws
    return moved(image, down, right, by.fill)


def moved(image: Tensor, down: int, right: int, fill: Fill) -> Tensor:
    result = image.clone()
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            result[:, y, x] = pixel(image, y - down, x - right, fill)
    return result


def pixel(image: Tensor, y: int, x: int, fill: Fill) -> Tensor | int:
    _, height, width = image.shape
    if fill == "reflect":
        return image[:, mirrored(y, height), mirrored(x, width)]
    return image[:, y, x] if 0 <= y < height and 0 <= x < width else fill


def mirrored(place: int, size: int) -> int:
    if place < 0:
        return -place
    return place if place < size else 2 * (size - 1) - place


def flip(_: Flip | AlternatingFlip, image: Tensor, draws: list[int]) -> Tensor:
    result = image.clone()
    width = image.shape[2]
    for x in range(width):
        result[:, :, x] = image[:, :, width - 1 - x if draws == [1] else x]
    return result


def cutout(by: Cutout, image: Tensor, draws: list[int]) -> Tensor:
    result = image.clone()
    _, height, width = image.shape
    top, left = draws[0] * (height - by.size + 1) // 2**31, draws[1] * (width - by.size + 1) // 2**31
    for y in range(top, top + by.size):
        for x in range(left, left + by.size):
            result[:, y, x] = by.fill
    return result


def normalize(by: Normalize, images: Tensor) -> Tensor:
    result = images.double()
    for c, (mean, std) in enumerate(zip(by.mean, by.std, strict=True)):
        result[:, c] = (images[:, c].double() / 255 - mean) / std
    return result
