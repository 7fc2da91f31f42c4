"""Views against pixel-by-pixel ones, with their weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rebatch.data.views import views_of
from rebatch.errors import RequestError

IMAGES = torch.arange(2 * 3 * 5 * 7, dtype=torch.float64).reshape(2, 3, 5, 7)


def reflected(place: int, size: int) -> int:
    """A place outside stands for the one as far inside; the border itself is not repeated."""
    return -place if place < 0 else 2 * (size - 1) - place if place >= size else place


def moved(down: int, right: int, *, mirrored: bool) -> Tensor:
    """Each pixel by itself: first moved, then mirrored left to right."""
    result = torch.empty_like(IMAGES)
    for row in range(5):
        for column in range(7):
            from_column = 6 - column if mirrored else column
            source = reflected(row - down, 5), reflected(from_column - right, 7)
            result[:, :, row, column] = IMAGES[:, :, *source]
    return result


TABLE: dict[Any, list[tuple[float, Tensor]]] = {
    "one": [(1.0, IMAGES)],
    "flip": [(0.5, IMAGES), (0.5, moved(0, 0, mirrored=True))],
    "flip+shift": [
        *((1 / 4, moved(0, 0, mirrored=each)) for each in (False, True)),
        *((1 / 8, moved(1, 1, mirrored=each)) for each in (False, True)),
        *((1 / 8, moved(-1, -1, mirrored=each)) for each in (False, True)),
    ],
}


@pytest.mark.parametrize("views", TABLE)
def test_views_are_what_moving_every_pixel_gives(views: Any) -> None:
    found = views_of(IMAGES, views)
    assert [weight for weight, _ in found] == [weight for weight, _ in TABLE[views]]
    for (_, view), (_, expected) in zip(found, TABLE[views], strict=True):
        assert torch.equal(view, expected)
    assert sum(weight for weight, _ in found) == 1.0


def test_views_do_not_change_the_images() -> None:
    before = IMAGES.clone()
    views_of(IMAGES, "flip+shift")
    assert torch.equal(IMAGES, before)


def test_what_is_no_image_has_one_view() -> None:
    rows = torch.zeros(2, 5)
    assert views_of(rows, "one")[0][1] is rows
    with pytest.raises(RequestError, match=r"views 'flip' are of images \(B, C, H, W\), got inputs of shape \(2, 5\);"):
        views_of(rows, "flip")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match="views must be 'one', 'flip', 'flip\\+shift', got 'flop'"):
        views_of(IMAGES, "flop")  # type: ignore[arg-type]
