"""The networks of Page's series: size and work by hand-written tables, and slow twins of their formulas."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tables import Conv, Layer, Linear, Norm
from models.work import forward_work, half_precision_step, images, outputs_in_pairs, parameters, training_work
from rebatch.models.page import page_resnet18, resnet9
from rebatch.nn import convert_ghost_batch_norm


def resnet18_table(a: int, b: int, c: int) -> list[Layer]:
    """Stages of widths a, b, c and c: a norm before every convolution of a block, so its width is the input's."""
    return [
        Conv(3, 3, a, 32),
        *(Conv(3, a, a, 32, times=4), Norm(a, times=4)),
        *(Conv(3, a, b, 16), Conv(3, b, b, 16, times=3), Norm(a), Norm(b, times=3), Conv(1, a, b, 16)),
        *(Conv(3, b, c, 8), Conv(3, c, c, 8, times=3), Norm(b), Norm(c, times=3), Conv(1, b, c, 8)),
        *(Conv(3, c, c, 4), Conv(3, c, c, 4, times=3), Norm(c), Norm(c, times=3), Conv(1, c, c, 4)),
        Linear(2 * c, 10, bias=True),
    ]


RESNET9: list[Layer] = [
    *(Conv(3, 3, 64, 32), Norm(64)),
    *(Conv(3, 64, 128, 32), Norm(128), Conv(3, 128, 128, 16, times=2), Norm(128, times=2)),
    *(Conv(3, 128, 256, 16), Norm(256)),
    *(Conv(3, 256, 512, 8), Norm(512), Conv(3, 512, 512, 4, times=2), Norm(512, times=2)),
    Linear(512, 10),
]

# The model, its table, the number of parameters, and GFLOP forward and forward + backward. Of the networks at their own
# width these are the reference's (ResNet9's parameters: computed once, as are the other widths).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[Layer], int, tuple[float, float]]] = {
    "resnet18": (page_resnet18, resnet18_table(64, 128, 256), 5_205_834, (0.920, 2.757)),
    "resnet18 x 1/2": (partial(page_resnet18, 0.5), resnet18_table(32, 64, 128), 1_304_490, (0.231, 0.691)),
    "resnet18 x 2": (partial(page_resnet18, 2), resnet18_table(128, 256, 512), 20_799_114, (3.673, 11.012)),
    "resnet9": (resnet9, RESNET9, 6_573_120, (0.759, 2.272)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_published_and_as_in_the_table(name: str) -> None:
    build, table, published, _ = NETWORKS[name]
    assert sum(layer.parameters for layer in table) == published
    assert parameters(build()) == published


@pytest.mark.parametrize("name", NETWORKS)
def test_work_is_as_published_and_as_in_the_table(name: str) -> None:
    build, table, _, (forward, both) = NETWORKS[name]
    work = [layer.multiply_accumulates for layer in table]
    # Backward costs twice as much as forward, but that nobody needs the gradient of the image.
    assert forward_work(build()) == sum(work)
    assert training_work(build()) == 3 * sum(work) - work[0]
    # Up to the last digit that is published.
    assert (2e-9 * sum(work), 2e-9 * (3 * sum(work) - work[0])) == pytest.approx((forward, both), abs=1e-3)


def resnet18_twin(weights: Iterator[Tensor], x: Tensor) -> Tensor:
    """In training mode, weights in the order of the parameters."""
    x = F.conv2d(x, next(weights), padding=1)
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 2), (256, 1)):
        r = F.relu(norm(x, weights))
        y = F.conv2d(r, next(weights), stride=stride, padding=1)
        y = F.conv2d(F.relu(norm(y, weights)), next(weights), padding=1)
        changes = stride == 2 or x.shape[1] != width
        x = y + (F.conv2d(r, next(weights), stride=stride) if changes else r)
    return torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1) @ next(weights).T + next(weights)


def resnet9_twin(weights: Iterator[Tensor], x: Tensor) -> Tensor:
    def block(x: Tensor) -> Tensor:
        return F.relu(norm(F.conv2d(x, next(weights), padding=1), weights))

    x = F.max_pool2d(block(block(x)), 2)
    x = x + block(block(x))
    x = F.max_pool2d(block(x), 2)
    x = F.max_pool2d(block(x), 2)
    x = x + block(block(x))
    return x.amax((2, 3)) @ next(weights).T / 8


def norm(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * next(weights).view(-1, 1, 1) + next(weights).view(-1, 1, 1)


@pytest.mark.parametrize(("build", "twin"), [(page_resnet18, resnet18_twin), (resnet9, resnet9_twin)])
def test_a_network_is_its_formulas(
    build: Callable[[], nn.Module], twin: Callable[[Iterator[Tensor], Tensor], Tensor]
) -> None:
    model = build().double()
    weights = iter(list(model.parameters()))
    torch.testing.assert_close(model(images(3)), twin(weights, images(3)), rtol=1e-10, atol=1e-10)
    assert next(weights, None) is None


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_scales_start_as_in_the_torch_of_their_time() -> None:
    torch.manual_seed(0)
    scales = torch.cat([layer.weight.detach() for layer in norms(page_resnet18())])
    assert ((scales >= 0) & (scales < 1)).all()
    for power in (1, 2):  # the moments of U(0, 1)
        mean, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        z = (scales.double().pow(power).mean().item() - mean) / (variance / len(scales)) ** 0.5
        assert abs(z) < 4


@pytest.mark.parametrize("build", [partial(page_resnet18, uniform_scales=False), resnet9])
def test_scales_start_at_one_where_the_series_says_so(build: Callable[[], nn.Module]) -> None:
    assert all((layer.weight == 1).all() for layer in norms(build()))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_else_starts_as_torch_has_it(name: str) -> None:
    for layer in NETWORKS[name][0]().modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)
            assert (layer.bias == 0).all()


@pytest.mark.parametrize("build", [page_resnet18, resnet9])
def test_ghosts_fit_in(build: Callable[[], nn.Module]) -> None:
    """Layers that overwrite their input must not meet a ghost norm that still needs it."""
    torch.manual_seed(0)
    model = convert_ghost_batch_norm(build().double(), 2)
    expected = outputs_in_pairs(build().double(), model)
    outputs = model(images(4))
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("build", [page_resnet18, resnet9])
def test_half_precision_and_channels_last_change_little(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    exact, rounded = half_precision_step(model, images(16))
    # bfloat16 keeps 8 bits, and the rounding of some ten layers adds up.
    assert (rounded - exact).norm() < 0.1 * exact.norm()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_width_that_makes_no_whole_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of \(64, 128, 256, 256\), got 0.3: .*; try a multiple of 1/64"):
        page_resnet18(0.3)
    with pytest.raises(ValueError, match="at least 1"):
        page_resnet18(0)
