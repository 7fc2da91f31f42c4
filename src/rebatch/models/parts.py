"""What several families of networks are built from."""

from collections.abc import Sequence

from torch import Tensor, nn

from rebatch.errors import RequestError


class Sum(nn.Module):
    """`branch` plus `shortcut` of the same input; the shortcut is the input itself where none is given."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape, as long as both sides agree."""
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


class Scale(nn.Module):
    """The input times a constant: small logits at the start, whatever the learning rate of the layer before."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Keeps shape and dtype."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The constant."""
        return f"{self.factor:.4g}"


def conv(width_in: int, width_out: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution of odd `size` without bias that keeps the side of the image, but for the stride."""
    return nn.Conv2d(width_in, width_out, size, stride, padding=size // 2, bias=False)


def scaled(widths: Sequence[int], factor: float) -> list[int]:
    """The widths of a network `factor` times as wide.

    >>> scaled((32, 64, 64), 0.5)
    [16, 32, 32]

    Raises:
        RequestError: a width would not be a whole number of channels, or none.
    """
    wide = [width * factor for width in widths]
    if not all(width >= 1 and width == round(width) for width in wide):
        raise RequestError(
            f"width must make whole numbers of channels, at least 1, of {tuple(widths)}, got {factor}: "
            f"{tuple(wide)}; try a multiple of 1/{min(widths)}"
        )
    return [round(width) for width in wide]
