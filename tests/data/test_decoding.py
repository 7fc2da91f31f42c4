import io
import pickle
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_folders import random_pixels, write_image
from rebatch.data.decoding import Place, answer, decode, serve

MOST = 2**31 - 1


def twin(path: Path, place: Place, resize: int, crop: int) -> np.ndarray:
    """Pixel by pixel, of Pillow's own resized image; the place is an exact fraction of the room."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    scale = Fraction(resize, min(image.size))
    image = image.resize((floor(width * scale), floor(height * scale)), Image.Resampling.BILINEAR)
    rooms = image.size[1] - crop, image.size[0] - crop
    if place is None:
        down, right = (room // 2 for room in rooms)
    else:
        down, right = (floor(Fraction(draw, 2**31) * (room + 1)) for draw, room in zip(place, rooms, strict=True))
    pixels = [
        [[image.getpixel((right + x, down + y))[c] for x in range(crop)] for y in range(crop)]  # type: ignore[index]
        for c in range(3)
    ]
    return np.array(pixels, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(67, 89), (89, 67), (31, 31), (40, 113)])
@pytest.mark.parametrize("place", [None, (0, 0), (MOST, MOST), (MOST // 3, MOST // 2), (0, MOST)])
def test_an_image_is_resized_and_cropped_where_it_is_said(
    tmp_path: Path, height: int, width: int, place: Place
) -> None:
    path = write_image(tmp_path / "a.png", height, width)
    assert np.array_equal(decode(str(path), place, 29, 23), twin(path, place, 29, 23))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(random_pixels(40, 40, seed=1)).convert(mode).save(path)
    with Image.open(path) as file:
        assert file.mode == mode
    pixels = decode(str(path), None, 32, 32)
    assert pixels.shape == (3, 32, 32)
    if mode in {"L", "LA", "1"}:
        assert np.array_equal(pixels[0], pixels[1])
    elif mode == "RGBA":
        assert np.array_equal(pixels, twin(path, None, 32, 32))
    assert len(np.unique(pixels)) > 1


def broken(path: Path) -> dict[str, bytes]:
    whole = write_image(path).read_bytes()
    return {
        "empty": b"",
        "text": b"<html>not found</html>",
        "truncated": whole[: len(whole) // 2],
        "header only": whole[:20],
    }


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "header only"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, kind: str, suffix: str) -> None:
    good, bad = write_image(tmp_path / "good.png"), tmp_path / f"bad.{suffix}"
    bad.write_bytes(broken(bad)[kind])
    reply = answer(([(str(good), None), (str(bad), None)], 32, 32))
    assert isinstance(reply, str)
    assert reply.startswith(f"{bad} is damaged or no image: ")
    assert "\n" not in reply


def test_requests_are_answered_in_order_until_there_are_no_more(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    requests = [([(str(path), (0, 0))], 32, 24), ([(str(tmp_path / "absent.png"), None)], 32, 24)]
    replies = io.BytesIO()
    serve(io.BytesIO(b"".join(pickle.dumps(request) for request in requests)), replies)
    replies.seek(0)
    assert np.array_equal(pickle.load(replies)[0], decode(str(path), (0, 0), 32, 24))
    assert "absent.png" in pickle.load(replies)
    assert replies.read() == b""
