"""Every network has the published number of parameters, and does the work that its table says."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import tables, twins
from rebatch.models.alexnet import alexnet
from rebatch.models.keskar import c1, c3
from rebatch.models.mlp import f1
from rebatch.models.resnet import resnet8, resnet44, wide_resnet16_4, wide_resnet16_4_preact
from rebatch.models.vgg import vgg
from rebatch.nn import convert_ghost_batch_norm

Case = tuple[Callable[[], nn.Module], list[tables.Layer], int, int]

# The model, its table, the side of its images, and the number of parameters in the reference (VGG, ResNet8 and the
# wide-residual paper's net are not in it: computed once).
NETWORKS: dict[str, Case] = {
    "f1": (f1, tables.F1, 28, 1_462_794),
    "c1": (c1, tables.shallow(10), 32, 1_388_490),
    "c3": (c3, tables.shallow(100), 32, 1_405_860),
    "resnet8": (resnet8, tables.RESNET8, 32, 78_042),
    "resnet44": (resnet44, tables.RESNET44, 32, 661_338),
    "wide": (wide_resnet16_4, tables.WIDE, 32, 2_800_804),
    "wide, pre-activation": (wide_resnet16_4_preact, tables.WIDE_PREACT, 32, 2_772_020),
    "vgg": (vgg, tables.VGG, 32, 14_987_210),
    "alexnet": (alexnet, tables.ALEXNET, 224, 61_110_184),
}
RESIDUAL = ["resnet8", "resnet44", "wide", "wide, pre-activation"]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_published_and_as_in_the_table(name: str) -> None:
    build, table, _, published = NETWORKS[name]
    assert sum(layer.parameters for layer in table) == published
    assert sum(parameter.numel() for parameter in build().parameters()) == published


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_work_is_as_in_the_table(name: str) -> None:
    build, table, side, _ = NETWORKS[name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build().eval()(torch.zeros(1, 1 if name == "f1" else 3, side, side))
    assert counter.get_total_flops() == 2 * sum(layer.multiply_accumulates for layer in table)


def images(examples: int) -> Tensor:
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(examples, 3, 32, 32, dtype=torch.float64, generator=numbers)


@pytest.mark.parametrize(
    ("build", "twin"),
    [
        (resnet8, partial(twins.resnet, widths=(16, 32, 64), blocks=1)),
        (wide_resnet16_4, partial(twins.resnet, widths=(64, 128, 256), blocks=2)),
        (wide_resnet16_4_preact, partial(twins.preact, widths=(64, 128, 256), blocks=2)),
    ],
)
def test_a_residual_network_is_its_formulas(build: Callable[[], nn.Module], twin: Callable[..., Tensor]) -> None:
    model = build().double()
    torch.testing.assert_close(model(images(3)), twin(model, images(3)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks_start_as_the_authors_have_them(name: str) -> None:
    torch.manual_seed(0)
    for layer in NETWORKS[name][0]().modules():
        if isinstance(layer, nn.Conv2d):
            expected = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
            z = (layer.weight.std().item() / expected - 1) * math.sqrt(2 * layer.weight.numel())
            assert abs(z) < 4.5  # the largest of some 40 layers
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
        elif isinstance(layer, nn.Linear):
            assert layer.weight.abs().max() <= 1 / math.sqrt(layer.in_features)


@pytest.mark.parametrize("name", ["c1", "c3", "vgg", "alexnet"])
def test_the_others_start_as_torch_has_them(name: str) -> None:
    for layer in NETWORKS[name][0]().modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert 0.9 * bound < layer.weight.abs().max() <= bound


def kinds(model: nn.Module) -> str:
    """Layers in order, a letter each: Conv, Pool, Norm, ReLU, Dropout, Linear."""
    letters = {"Conv2d": "C", "MaxPool2d": "P", "ReLU": "R", "Dropout": "D", "Linear": "L", "Flatten": "/"}
    return "".join(letters.get(type(layer).__name__, "N") for layer in model.children())


def test_layers_come_in_the_order_of_the_reference() -> None:
    assert kinds(c1()) == kinds(c3()) == "CPNRCPNR/LNRDLNRDL"
    assert kinds(alexnet()) == "CPNRCPRNCRNCRNCPRN/LNRDLNRDL"
    assert kinds(vgg()) == 2 * "CNRDCNRP" + 3 * "CNRDCNRDCNRP" + "/DLNRDL"


@pytest.mark.parametrize("name", ["c1", "resnet8", "wide, pre-activation", "vgg"])
def test_ghosts_fit_into_every_family(name: str) -> None:
    """Layers that overwrite their input must not meet a ghost norm that still needs it."""
    torch.manual_seed(0)
    model = convert_ghost_batch_norm(NETWORKS[name][0](), 2)
    model(images(4).float()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
