"""Sets of image files that do not fit into memory: examples are numbers of files, decoded when they are asked for.

A `DataSet` over such files holds numbers as its inputs. The first augmentation of the set, `DecodeCrop`, turns them
into images, cropped where a table of draws says; evaluation gets the centre, through the `decode` of `Normalize`.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebatch.data.augment import Stream, shares_of_room
from rebatch.data.decoders import Decoders, default_processes, shared_decoders
from rebatch.data.decoding import Place
from rebatch.errors import RequestError

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}

# Images that one request asks for: few enough that the processes finish together, many enough to hide the pipe.
REQUEST = 8


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files by number: shorter side resized to `resize`, then a square of `crop` pixels, (B, 3, crop, crop) uint8.

    `processes` processes decode (as many as there are processors if left out); the pixels do not depend on that. What
    `begin` was told of is decoded while other work is done.
    """

    paths: Sequence[str]
    resize: int = 256
    crop: int = 224
    processes: int | None = None
    _pending: dict[tuple[int, Place], tuple[Future[NDArray[np.uint8]], int]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"crop must be from 1 to resize={self.resize} pixels, got {self.crop}")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pending(self) -> int:
        """Images that were begun and not yet asked for."""
        return len(self._pending)

    def begin(self, numbers: Tensor, places: Tensor | None) -> None:
        """Begin to decode files `numbers` (B,) at `places` (B, 2) of `DecodeCrop`'s draws, or in the centre."""
        todo = [key for key in dict.fromkeys(_keys(numbers, places)) if key not in self._pending]
        for first in range(0, len(todo), REQUEST):
            keys = todo[first : first + REQUEST]
            files = [(self.paths[number], place) for number, place in keys]
            future = self._decoders.submit((files, self.resize, self.crop))
            self._pending.update({key: (future, row) for row, key in enumerate(keys)})

    def decode(self, numbers: Tensor, places: Tensor | None) -> Tensor:
        """The images, on the device of `numbers`.

        Raises:
            RequestError: one line that names a file that is damaged or no image.
        """
        self.begin(numbers, places)
        keys = _keys(numbers, places)
        images = np.empty((len(keys), 3, self.crop, self.crop), np.uint8)
        try:
            for image, key in zip(images, keys, strict=True):
                future, row = self._pending[key]
                image[:] = future.result()[row]
        finally:
            for key in keys:
                self._pending.pop(key, None)
        return torch.from_numpy(images).to(numbers.device)

    def centres(self, numbers: Tensor) -> Tensor:
        """The middle of every image, as evaluation sees it."""
        return self.decode(numbers, None)

    @cached_property
    def _decoders(self) -> Decoders:
        return shared_decoders(self.processes or default_processes())


def _keys(numbers: Tensor, places: Tensor | None) -> list[tuple[int, Place]]:
    wanted: list[int] = numbers.tolist()
    if places is None:
        return [(number, None) for number in wanted]
    return [(number, (down, right)) for number, (down, right) in zip(wanted, places.tolist(), strict=True)]


@dataclass(frozen=True)
class DecodeCrop:
    """The augmentation that makes images of the files' numbers: decoded, and cropped at a random place."""

    files: ImageFiles

    purpose: ClassVar[str] = "crop"

    def draw(self, stream: Stream, epoch: int, examples: int) -> NDArray[np.integer]:
        """Rows (down, right), shares of the room that an image leaves once it is resized."""
        return shares_of_room(stream(epoch), examples)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images (B, 3, H, W) of the file numbers `images` (B,)."""
        return self.files.decode(images, draws)

    def begin(self, images: Tensor, draws: Tensor) -> None:
        """Begin what `apply` will be asked for."""
        self.files.begin(images, draws)

    @property
    def pending(self) -> int:
        """Images that were begun and not yet asked for."""
        return self.files.pending


def find_images(folder: Path, classes: Sequence[str] | None = None) -> tuple[list[str], list[int], list[str]]:
    """Paths, targets and class names of a folder of class folders, all sorted by name; a class is a folder's place.

    Raises:
        RequestError: no folder, no class folders, a class without images, or other classes than `classes`.
    """
    if find_spec("PIL") is None:
        raise RequestError("image files need Pillow, which is not installed; run `pip install 'rebatch[images]'`")
    if not folder.is_dir():
        raise RequestError(f"no folder {folder}; it must hold one folder of images per class")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not found or (classes is not None and found != list(classes)):
        expected = "class folders" if classes is None else f"the {len(classes)} class folders of the training images"
        raise RequestError(f"{folder} must hold {expected}, found {_few(found, classes or ())}")
    images = [sorted(str(path) for path in (folder / name).iterdir() if _is_image(path)) for name in found]
    for name, files in zip(found, images, strict=True):
        if not files:
            raise RequestError(f"no images in {folder / name} (looked for {', '.join(sorted(SUFFIXES))})")
    targets = [target for target, files in enumerate(images) for _ in files]
    return [path for files in images for path in files], targets, found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _few(found: Sequence[str], expected: Sequence[str]) -> str:
    strange = [name for name in found if name not in expected]
    return f"{len(found)} folders" + (f", {strange[0]!r} among them" if strange and expected else "")
