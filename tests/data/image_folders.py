"""Small folders of images, made from random pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.layouts import Bytes


def random_pixels(height: int, width: int, seed: int) -> Bytes:
    """Blocks of 16 x 16 pixels: after JPEG and resizing, images still differ wherever they are cropped."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return blocks.repeat(16, 0).repeat(16, 1)[:height, :width]


def write_image(path: Path, height: int = 67, width: int = 89, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_pixels(height, width, seed)).save(path)
    return path


def write_folders(folder: Path, train: int, test: int, classes: tuple[str, ...] = ("n01", "n02", "n03")) -> Path:
    """`train` and `test` images dealt to classes, of various sizes."""
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            name = f"{split}/{classes[number % len(classes)]}/{number:03}.JPEG"
            write_image(folder / name, 60 + 7 * (number % 5), 60 + 11 * (number % 3), seed=number)
    return folder
