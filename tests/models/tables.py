"""The networks as tables, written by hand from the papers: their sums are what parameters and work must be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """`times` convolutions of size x size without bias, whose output has side x side positions."""

    size: int
    width_in: int
    width_out: int
    side: int
    times: int = 1

    @property
    def parameters(self) -> int:
        return self.times * self.size * self.size * self.width_in * self.width_out

    @property
    def multiply_accumulates(self) -> int:
        return self.parameters * self.side * self.side


@dataclass(frozen=True)
class Linear:
    width_in: int
    width_out: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return (self.width_in + self.bias) * self.width_out

    @property
    def multiply_accumulates(self) -> int:
        return self.width_in * self.width_out


@dataclass(frozen=True)
class Norm:
    """`times` batch norms of `width` channels: a weight and a bias each; no multiplications are counted."""

    width: int
    times: int = 1

    @property
    def parameters(self) -> int:
        return 2 * self.width * self.times

    multiply_accumulates = 0


Layer = Conv | Linear | Norm


F1: list[Layer] = [
    *(Linear(784, 512, bias=True), Norm(512)),
    *(Linear(512, 512, bias=True), Norm(512)) * 4,
    Linear(512, 10, bias=True),
]


def shallow(classes: int) -> list[Layer]:
    """C1 and C3: pooling 3 stride 2 without padding takes 32 to 15 and 15 to 7."""
    convolutions: list[Layer] = [Conv(5, 3, 64, 32), Norm(64), Conv(5, 64, 64, 15), Norm(64)]
    hidden: list[Layer] = [Linear(3136, 384), Norm(384), Linear(384, 192), Norm(192), Linear(192, classes, bias=True)]
    return [*convolutions, *hidden]


RESNET44: list[Layer] = [
    *(Conv(3, 3, 16, 32), Norm(16)),
    *(Conv(3, 16, 16, 32, times=14), Norm(16, times=14)),
    *(Conv(3, 16, 32, 16), Conv(3, 32, 32, 16, times=13), Norm(32, times=14), Conv(1, 16, 32, 16), Norm(32)),
    *(Conv(3, 32, 64, 8), Conv(3, 64, 64, 8, times=13), Norm(64, times=14), Conv(1, 32, 64, 8), Norm(64)),
    Linear(64, 10, bias=True),
]
RESNET8: list[Layer] = [
    *(Conv(3, 3, 16, 32), Norm(16)),
    *(Conv(3, 16, 16, 32, times=2), Norm(16, times=2)),
    *(Conv(3, 16, 32, 16), Conv(3, 32, 32, 16), Norm(32, times=2), Conv(1, 16, 32, 16), Norm(32)),
    *(Conv(3, 32, 64, 8), Conv(3, 64, 64, 8), Norm(64, times=2), Conv(1, 32, 64, 8), Norm(64)),
    Linear(64, 10, bias=True),
]
WIDE: list[Layer] = [
    *(Conv(3, 3, 64, 32), Norm(64)),
    *(Conv(3, 64, 64, 32, times=4), Norm(64, times=4)),
    *(Conv(3, 64, 128, 16), Conv(3, 128, 128, 16, times=3), Norm(128, times=4), Conv(1, 64, 128, 16), Norm(128)),
    *(Conv(3, 128, 256, 8), Conv(3, 256, 256, 8, times=3), Norm(256, times=4), Conv(1, 128, 256, 8), Norm(256)),
    Linear(256, 100, bias=True),
]
# A norm before every convolution of a block, so its width is that of the convolution's input; one more at the end.
WIDE_PREACT: list[Layer] = [
    Conv(3, 3, 16, 32),
    *(Conv(3, 16, 64, 32), Conv(3, 64, 64, 32, times=3), Norm(16), Norm(64, times=3), Conv(1, 16, 64, 32)),
    *(Conv(3, 64, 128, 16), Conv(3, 128, 128, 16, times=3), Norm(64), Norm(128, times=3), Conv(1, 64, 128, 16)),
    *(Conv(3, 128, 256, 8), Conv(3, 256, 256, 8, times=3), Norm(128), Norm(256, times=3), Conv(1, 128, 256, 8)),
    Norm(256),
    Linear(256, 100, bias=True),
]
VGG: list[Layer] = [
    *(Conv(3, 3, 64, 32), Conv(3, 64, 64, 32), Norm(64, times=2)),
    *(Conv(3, 64, 128, 16), Conv(3, 128, 128, 16), Norm(128, times=2)),
    *(Conv(3, 128, 256, 8), Conv(3, 256, 256, 8, times=2), Norm(256, times=3)),
    *(Conv(3, 256, 512, 4), Conv(3, 512, 512, 4, times=2), Norm(512, times=3)),
    *(Conv(3, 512, 512, 2, times=3), Norm(512, times=3)),
    *(Linear(512, 512), Norm(512), Linear(512, 10, bias=True)),
]
ALEXNET: list[Layer] = [
    *(Conv(11, 3, 64, 55), Norm(64)),
    *(Conv(5, 64, 192, 27), Norm(192)),
    *(Conv(3, 192, 384, 13), Norm(384), Conv(3, 384, 256, 13), Norm(256), Conv(3, 256, 256, 13), Norm(256)),
    *(Linear(9216, 4096), Norm(4096), Linear(4096, 4096), Norm(4096), Linear(4096, 1000, bias=True)),
]
