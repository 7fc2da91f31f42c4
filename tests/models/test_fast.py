"""The whitened networks: size and work by hand-written tables, slow twins of their formulas, and how they start."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tables import Conv, Layer, Linear, Norm
from models.work import forward_work, half_precision_step, images, outputs_in_pairs, parameters, training_work
from rebatch.models.fast import fast94, proxy
from rebatch.models.whitening import Whitening, whiten
from rebatch.nn import convert_ghost_batch_norm
from rebatch.optimizers import parameter_groups
from rebatch.recipe import Sgd


def table(a: int, b: int, c: int) -> list[Layer]:
    """The image shrinks 32 -> 31 -> 15 -> 7 -> 3; the 24 biases of the whitening layer are not in the table."""
    return [
        Conv(2, 3, 24, 31),
        *(Conv(3, 24, a, 31), Norm(a), Conv(3, a, a, 15), Norm(a)),
        *(Conv(3, a, b, 15), Norm(b), Conv(3, b, b, 7), Norm(b)),
        *(Conv(3, b, c, 7), Norm(c), Conv(3, c, c, 3), Norm(c)),
        Linear(c, 10),
    ]


# The model, its table, the numbers of parameters and of trained ones, and GFLOP forward and forward + backward. The
# reference has the GFLOP at the networks' own width, and 0.15 million parameters for the proxy.
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], list[Layer], tuple[int, int], tuple[float, float]]] = {
    "fast94": (fast94, table(64, 256, 256), (1_972_792, 1_971_352), (0.236, 0.681)),
    "proxy": (proxy, table(32, 64, 64), (146_744, 146_432), (0.034, 0.088)),
    "proxy x 1/2": (partial(proxy, 0.5), table(16, 32, 32), (38_968, 38_656), (0.012, 0.029)),
    "proxy x 2": (partial(proxy, 2), table(64, 128, 128), (569_656, 569_344), (0.108, 0.298)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_published_and_as_in_the_table(name: str) -> None:
    build, layers, (all_of_them, trained), _ = NETWORKS[name]
    model = build()
    assert sum(layer.parameters for layer in layers) + 24 == all_of_them == parameters(model)
    assert sum(p.numel() for group in parameter_groups(model, Sgd(lr=1.0)) for p in group["params"]) == trained


@pytest.mark.parametrize("name", NETWORKS)
def test_work_is_as_published_and_as_in_the_table(name: str) -> None:
    """Published is the work with the whitening layer frozen whole, as airbench has it after three epochs."""
    build, layers, _, (forward, both) = NETWORKS[name]
    model = build()
    whitening, first, *rest = [layer.multiply_accumulates for layer in layers]
    frozen = whitening + 2 * first + 3 * sum(rest)  # no gradients below the first trained convolution
    model[0].bias.requires_grad_(False)
    assert forward_work(model) == whitening + first + sum(rest)
    assert training_work(model) == frozen
    # Up to the last digit that is published.
    assert (2e-9 * (whitening + first + sum(rest)), 2e-9 * frozen) == pytest.approx((forward, both), abs=1e-3)


def test_training_the_bias_of_fast94_costs_the_gradient_of_its_outputs() -> None:
    whitening, *rest = [layer.multiply_accumulates for layer in table(64, 256, 256)]
    # torch counts a convolution's gradient of the bias as free.
    assert training_work(fast94()) == whitening + 3 * sum(rest)
    assert round(2e-9 * (whitening + 3 * sum(rest)), 3) == 0.708


def twin(weights: Iterator[Tensor], x: Tensor, eps: float) -> Tensor:
    """In training mode, weights in the order of the parameters."""

    def norm(x: Tensor) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (variance + eps).sqrt() * next(weights).view(-1, 1, 1) + next(weights).view(-1, 1, 1)

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    x = gelu(F.conv2d(x, next(weights), next(weights)))
    for _ in range(3):
        x = gelu(norm(F.max_pool2d(F.conv2d(x, next(weights), padding=1), 2)))
        x = gelu(norm(F.conv2d(x, next(weights), padding=1)))
    return x.amax((2, 3)) @ next(weights).T / 9


@pytest.mark.parametrize(("build", "eps"), [(fast94, 1e-12), (proxy, 1e-5)])
def test_a_network_is_its_formulas(build: Callable[[], nn.Sequential], eps: float) -> None:
    model = whiten(build().double(), images(7))
    weights = iter(list(model.parameters()))
    torch.testing.assert_close(model(images(3)), twin(weights, images(3), eps), rtol=1e-10, atol=1e-10)
    assert next(weights, None) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_start_by_passing_channels_on(name: str) -> None:
    for layer in NETWORKS[name][0]().modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Whitening):
            passed = min(layer.in_channels, layer.out_channels)
            x = torch.randn(2, layer.in_channels, 5, 7)
            torch.testing.assert_close(layer(x)[:, :passed], x[:, :passed], rtol=0, atol=0)
            if layer.out_channels > passed:
                bound = layer.weight[0].numel() ** -0.5
                assert 0.9 * bound < layer.weight[passed:].abs().max() <= bound


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_fast94_trains_biases_but_not_scales_and_remembers_as_airbench_does() -> None:
    for layer in norms(fast94()):
        assert (layer.weight == 1).all()
        assert (layer.bias == 0).all()
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad
        layer(torch.full((1, layer.num_features, 1, 2), 10.0))
        torch.testing.assert_close(layer.running_mean, torch.full((layer.num_features,), 0.6 * 0.0 + 0.4 * 10.0))


def test_the_proxy_has_the_batch_norm_of_torch() -> None:
    plain = nn.BatchNorm2d(2)
    for layer in norms(proxy()):
        assert (layer.eps, layer.momentum) == (plain.eps, plain.momentum)
        assert layer.weight.requires_grad


@pytest.mark.parametrize("build", [fast94, proxy])
def test_ghosts_fit_in(build: Callable[[], nn.Sequential]) -> None:
    torch.manual_seed(0)
    model = convert_ghost_batch_norm(whiten(build().double(), images(7)), 2)
    expected = outputs_in_pairs(build().double(), model)
    outputs = model(images(4))
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    outputs.square().sum().backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None and parameter.grad.any()) == parameter.requires_grad


@pytest.mark.parametrize("build", [fast94, proxy])
def test_half_precision_and_channels_last_change_little(build: Callable[[], nn.Sequential]) -> None:
    torch.manual_seed(0)
    model = whiten(build(), images(16).float())
    exact, rounded = half_precision_step(model, images(16))
    # bfloat16 keeps 8 bits, and the rounding of some ten layers adds up.
    assert (rounded - exact).norm() < 0.1 * exact.norm()
    for parameter in model.parameters():
        assert (parameter.grad is not None and bool(parameter.grad.isfinite().all())) == parameter.requires_grad
