"""One image file to pixels, and the process that does so for others: `python decoding.py` answers on its pipes.

Alone in its file and started by path, so that such a process imports neither torch nor the user's script and is ready
at once. Pillow is imported where it is needed, since only tasks on image files need it.
"""

import pickle
import sys
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int] | None
"""Where to crop: two draws (down, right) from 0 to 2^31 - 1, each a share of the room there is; None for the centre."""

Request = tuple[Sequence[tuple[str, Place]], int, int]
"""Files with their places, the length to which the shorter side is resized, the side of the square to crop."""


def decode(path: str, place: Place, resize: int, crop: int) -> NDArray[np.uint8]:
    """The image as (3, crop, crop) bytes of red, green, blue; gray, CMYK, palette and transparent ones become RGB."""
    from PIL import Image

    with Image.open(path) as file:
        image: Any = file.convert("RGB")
    short = min(image.size)
    # Whole pixels as torchvision counts them: the longer side is rounded down.
    size = tuple(resize * side // short for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    right, down = (_offset(room - crop, draw) for room, draw in zip(size, _across(place), strict=True))
    image = image.crop((right, down, right + crop, down + crop))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _across(place: Place) -> tuple[int | None, int | None]:
    """Draws in Pillow's order: across, then down."""
    return (None, None) if place is None else (place[1], place[0])


def _offset(room: int, draw: int | None) -> int:
    """0 to `room`, each equally often up to one part in 2^31 / room; the middle without a draw."""
    return room // 2 if draw is None else draw * (room + 1) >> 31


def answer(request: Request) -> NDArray[np.uint8] | str:
    """The images of a request, (B, 3, crop, crop), or what is wrong with the first that cannot be decoded."""
    files, resize, crop = request
    images = np.empty((len(files), 3, crop, crop), np.uint8)
    for row, (path, place) in zip(images, files, strict=True):
        try:
            row[:] = decode(path, place, resize, crop)
        except Exception as error:  # damaged bytes: Pillow raises OSError, SyntaxError, ValueError, struct.error ...
            reason = " ".join(str(error).split()) or type(error).__name__
            return f"{path} is damaged or no image: {reason}"
    return images


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more: whoever asks closes the pipe, or dies."""
    while True:
        try:
            request: Request = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(answer(request), replies, protocol=5)
        replies.flush()


def main() -> None:
    """Serve standard input and output; Ctrl-C is for the process that asks."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # of odd metadata, for pixels that are fine
    with open(0, "rb") as requests, open(1, "wb") as replies:
        sys.stdout = sys.stderr
        serve(requests, replies)


if __name__ == "__main__":
    main()
