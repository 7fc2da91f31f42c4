"""Batch norm as sums, eager and as `compiled` puts it into a network, beside torch's own."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

from rebatch.nn import GhostBatchNorm2d
from rebatch.nn.compiled import batch_norm, compiled
from rebatch.nn.normalization import summed

SHAPES: dict[str, tuple[int, ...]] = {
    "1d": (15, 3),
    "1d with length": (15, 3, 7),
    "2d": (15, 3, 2, 7),
    "3d": (15, 3, 2, 5, 7),
    "two values": (2, 3),
}
STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "with gaps": lambda t: torch.stack((t, t), dim=-1)[..., 0],
}
# name: (affine, buffers, training, momentum)
MODES: dict[str, tuple[bool, bool, bool, float]] = {
    "as torch": (True, True, True, 0.1),
    "no parameters": (False, True, True, 0.3),
    "no buffers": (True, False, True, 0.0),  # as the layer calls where momentum is None
    "neither": (False, False, True, 0.1),
    "the first of a cumulative average": (True, True, True, 1.0),
    "evaluation": (True, True, False, 0.1),
}


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, dtype=torch.float64, generator=generator) + 2).to(dtype)


def parameters(*, affine: bool, buffers: bool) -> list[Tensor | None]:
    """Running mean, running variance, weight, bias of three channels."""
    mean, variance, weight, bias = (numbers((3,), seed) for seed in range(4))
    kept = [mean, variance.abs()] if buffers else [None, None]
    return [*kept, *([weight.requires_grad_(), bias.requires_grad_()] if affine else [None, None])]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_batch_norm_is_torchs(shape: tuple[int, ...], mode: tuple[bool, bool, bool, float]) -> None:
    affine, buffers, training, momentum = mode
    results, norms = [], cast(list[Callable[..., Tensor]], [batch_norm, F.batch_norm])
    for norm in norms:
        x, tensors = numbers(shape, 4).requires_grad_(), parameters(affine=affine, buffers=buffers)
        y = norm(x, *tensors, training, momentum, 1e-3)
        torch.autograd.backward(y, numbers(shape, 5))
        gradients = [tensor.grad for tensor in (x, *tensors[2:]) if tensor is not None]
        results.append((y, gradients, [tensor for tensor in tensors[:2] if tensor is not None]))
    assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ghosts", [1, 3, 5])
@pytest.mark.parametrize("shape", list(SHAPES.values())[:4], ids=list(SHAPES)[:4])
def test_summed_is_torchs_batch_norm_ghost_by_ghost(shape: tuple[int, ...], ghosts: int) -> None:
    x, weight, bias = (numbers(size, seed).requires_grad_() for seed, size in enumerate((shape, (3,), (3,))))
    mean, variance = torch.zeros(2, ghosts, 3, dtype=torch.float64)
    chunks = zip(x.chunk(ghosts), mean, variance, strict=True)
    expected = torch.cat([F.batch_norm(part, m, v, weight, bias, True, 1.0, 1e-3) for part, m, v in chunks])
    found = summed(x, weight, bias, ghosts, 1e-3)
    assert_close(found, (expected, mean, variance), rtol=1e-10, atol=1e-12)
    assert [tensor.requires_grad for tensor in found] == [True, False, False]
    gradients = [torch.autograd.grad(y, (x, weight, bias), numbers(shape, 3)) for y in (found[0], expected)]
    assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_layouts_change_no_number_and_channels_last_is_kept() -> None:
    x, grad, weight, bias = (
        numbers(size, seed) for seed, size in enumerate(((15, 3, 2, 7), (15, 3, 2, 7), (3,), (3,)))
    )
    results = []
    for (name, layout), other in itertools.product(STRIDES.items(), STRIDES.values()):
        own = layout(x).requires_grad_()
        y = summed(own, weight, bias, 3, 1e-3)[0]
        (own_grad,) = torch.autograd.grad(y, own, other(grad))
        if name in ("contiguous", "channels last"):
            assert y.stride() == own_grad.stride() == own.stride()
        results.append((y, own_grad))
    for result in results[1:]:
        assert_close(result, results[0], rtol=1e-10, atol=1e-12)


def test_a_large_mean_cancels_nothing() -> None:
    exact = numbers((64, 3, 5, 7), 0) / 3 + 1e4
    x = exact.float()
    y, mean, variance = summed(x, torch.ones(3), torch.zeros(3), 2, 1e-5)
    twin = summed(x.double(), torch.ones(3).double(), torch.zeros(3).double(), 2, 1e-5)
    # x has steps of 2^-10: its mean is known to 1e-3, and so is each deviation. E[x^2] - E[x]^2 would miss by 8.
    assert_close(mean.double(), twin[1], rtol=1e-7, atol=0)
    assert_close(variance.double(), twin[2], rtol=1e-4, atol=0)
    assert_close(y.double(), twin[0], rtol=0, atol=2e-3)


def test_half_precision_keeps_float32_statistics() -> None:
    x = numbers((15, 3, 2, 7), 0, torch.bfloat16).requires_grad_()
    _, _, weight, bias = parameters(affine=True, buffers=False)
    assert weight is not None
    assert bias is not None
    half = [weight.detach().float().requires_grad_(), bias.detach().float().requires_grad_()]
    running = torch.zeros(2, 3)
    y = batch_norm(x, running[0], running[1], half[0], half[1], True, 1.0)
    mean, variance = torch.zeros(2, 3, dtype=torch.float64)
    twin = x.detach().double().requires_grad_()
    expected = F.batch_norm(twin, mean, variance, weight, bias, True, 1.0)
    for output in (y, expected):
        torch.autograd.backward(output, numbers((15, 3, 2, 7), 1, torch.bfloat16).to(output.dtype))
    assert y.dtype == torch.bfloat16
    assert_close(running.double(), torch.stack((mean, variance)), rtol=1e-6, atol=0)  # float32, from the same numbers
    assert_close(y.double(), expected, rtol=2**-8, atol=1e-6)  # one rounding
    assert x.grad is not None
    assert twin.grad is not None
    assert_close(x.grad.double(), twin.grad, rtol=2**-8, atol=1e-5)
    for own, exact in zip(half, (weight, bias), strict=True):
        assert own.grad is not None
        assert exact.grad is not None
        assert_close(own.grad.double(), exact.grad, rtol=1e-5, atol=1e-4)


def test_half_precision_buffers_round_once() -> None:
    start, x = torch.full((2, 31), 1.2421875), numbers((15, 31), 0, torch.bfloat16)  # 0.9 of it is no bfloat16 number
    half, single = start.bfloat16(), start.clone()
    for running in (half, single):
        batch_norm(x, running[0], running[1], training=True)
    assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel_is_refused_as_torch_refuses_it(shape: tuple[int, ...]) -> None:
    messages = []
    for norm in (batch_norm, F.batch_norm):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as caught:
            norm(torch.rand(shape), None, None, training=True)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def network(**flags: Any) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, **flags), nn.ReLU()
        second = (
            nn.Conv2d(5, 7, 3),
            GhostBatchNorm2d(7, 4),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return nn.Sequential(*first, *second, nn.Linear(7, 2), nn.BatchNorm1d(2, affine=False)).double()


def assert_same_step(model: nn.Module, call: nn.Module, twin: nn.Module, examples: int) -> None:
    """`call` is `model` compiled: a step of it leaves what a step of `twin` leaves."""
    x = numbers((examples, 3, 8, 8), examples)
    outputs = call(x), twin(x)
    assert_close(*outputs, rtol=1e-10, atol=1e-12)
    if model.training:
        for output, network in zip(outputs, (model, twin), strict=True):
            network.zero_grad()
            output.square().sum().backward()
        gradients = [[parameter.grad for parameter in network.parameters()] for network in (model, twin)]
        assert_close(*gradients, rtol=1e-9, atol=1e-11)
    assert list(model.state_dict()) == list(twin.state_dict())
    assert_close(model.state_dict(), twin.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++ is not installed")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, as inductor loads
def test_a_compiled_network_is_the_same_network() -> None:
    model, twin = network(), network()
    call, before = compiled(model, torch.device("cpu")), counters["stats"]["unique_graphs"]
    for examples in (11, 11, 6):  # the last batch of an epoch is smaller
        assert_same_step(model, call, twin, examples)
    assert counters["stats"]["unique_graphs"] == before + 2


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is called in the graphs that reach inductor, in whose place they run as they are."""
    targets: list[Any] = []

    def plain(graph: fx.GraphModule, inputs: Sequence[Tensor], **_: Any) -> Callable[..., Any]:
        targets.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    monkeypatch.setattr("torch._dynamo.lookup_backend", {"inductor": plain}.get)
    torch.compiler.reset()  # an equal network may have been compiled before
    yield targets
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, after a break of the graph
@pytest.mark.parametrize("flags", [{}, {"momentum": None}, {"track_running_stats": False}], ids=str)
def test_every_batch_norm_of_torch_is_replaced(flags: dict[str, Any], traced: list[Any]) -> None:
    model, twin = network(**flags), network(**flags)
    call = compiled(model, torch.device("cpu"))
    for examples in (11, 11, 6, 13):  # other sizes make graphs of their own, or one for any size
        assert_same_step(model, call, twin, examples)
    model.eval()
    twin.eval()
    assert_same_step(model, call, twin, 7)
    assert batch_norm in traced
    assert F.batch_norm not in traced


def test_a_network_without_batch_norm_is_left_as_it_is(traced: list[Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).double()
    assert_same_step(model, compiled(model, torch.device("cpu")), copy.deepcopy(model), 7)
    assert traced
    assert batch_norm not in traced
