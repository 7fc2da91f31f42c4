import copy
import itertools
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from rebatch.cutting import ghost_sizes
from rebatch.errors import RequestError
from rebatch.nn import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, convert_ghost_batch_norm
from rebatch.nn.ghost_batch_norm import GhostBatchNorm
from rebatch.nn.normalization import folds, normalize_ghosts
from reference.ghost_batch_norm import as_printed, chunk_by_chunk, ghost_by_ghost, mean_of_ghosts, scaled_steps

GHOST = 5
EXAMPLES = {"no remainder": 15, "remainder of one": 16, "remainder of several": 18, "smaller than one ghost": 3}
# name: (ghost layer, plain layer, shape after the examples)
LAYERS: dict[str, tuple[type[GhostBatchNorm], type[_BatchNorm], tuple[int, ...]]] = {
    "1d": (GhostBatchNorm1d, nn.BatchNorm1d, (3,)),
    "1d with length": (GhostBatchNorm1d, nn.BatchNorm1d, (3, 7)),
    "2d": (GhostBatchNorm2d, nn.BatchNorm2d, (3, 2, 7)),
    "3d": (GhostBatchNorm3d, nn.BatchNorm3d, (3, 2, 5, 7)),
}
FLAGS: dict[str, dict[str, Any]] = {
    "as torch": {},
    "no parameters": {"affine": False},
    "no buffers": {"track_running_stats": False},
    "cumulative": {"momentum": None},
    "other numbers": {"momentum": 0.7, "eps": 0.3},
    "momentum of one": {"momentum": 1.0},
}
STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "with gaps": lambda t: torch.stack((t, t), dim=-1)[..., 0],
}
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pair(case: str, flags: dict[str, Any], **ghost_only: Any) -> tuple[GhostBatchNorm, _BatchNorm]:
    """A ghost layer and torch's own, in float64, with the same parameters that are not all one and zero."""
    ghost_type, plain_type, _ = LAYERS[case]
    ghost = ghost_type(3, GHOST, **flags, **ghost_only, dtype=torch.float64)
    plain = plain_type(3, **flags, dtype=torch.float64)
    torch.manual_seed(0)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    ghost.load_state_dict(plain.state_dict())
    return ghost, plain


def batch(case: str, examples: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return (3 * torch.randn(examples, *LAYERS[case][2], dtype=torch.float64) + 2).to(dtype)


def gradients(y: Tensor, x: Tensor, layer: nn.Module) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return torch.autograd.grad(y, [x, *layer.parameters()], torch.randn_like(y))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_is_plain_batch_norm_run_on_the_ghosts_one_by_one(
    case: str, examples: int, flags: dict[str, Any], way: str
) -> None:
    ghost, plain = pair(case, flags)
    sizes = ghost_sizes(examples, GHOST)
    for _ in range(2):  # twice: the cumulative average depends on what came before
        x = batch(case, examples).requires_grad_()
        y, expected = ghost(x), ghost_by_ghost(plain, x, sizes)
        assert_close(y, expected, rtol=1e-10, atol=1e-12)
        assert_close(gradients(y, x, ghost), gradients(expected, x, plain), rtol=1e-10, atol=1e-12)
    assert_close(ghost.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_running_mean_makes_one_step_with_the_average_of_the_ghosts(examples: int, way: str) -> None:
    ghost, plain = pair("2d", {"momentum": 0.3}, running="mean")
    expected = mean_of_ghosts(plain, batch("2d", examples), ghost_sizes(examples, GHOST))
    ghost(batch("2d", examples))
    assert_close((ghost.running_mean, ghost.running_var), expected, rtol=1e-10, atol=1e-12)
    assert ghost.num_batches_tracked == 1


def test_running_mean_with_cumulative_momentum_averages_batches() -> None:
    ghost, _ = pair("1d", {"momentum": None}, running="mean")
    for factor in (1.0, 4.0):
        ghost(factor * batch("1d", 15))
    assert_close(ghost.running_mean, 2.5 * batch("1d", 15).mean(0), rtol=1e-10, atol=1e-12)
    assert ghost.num_batches_tracked == 2


@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_running_scaled_makes_a_step_of_momentum_over_their_number_for_each_ghost(examples: int, way: str) -> None:
    ghost, plain = pair("2d", {"momentum": 0.3}, running="scaled")
    for factor in (1.0, 4.0):
        x = factor * batch("2d", examples)
        expected = scaled_steps(plain, x, ghost_sizes(examples, GHOST))
        ghost(x)
        assert_close((ghost.running_mean, ghost.running_var), expected, rtol=1e-10, atol=1e-12)
        plain.load_state_dict(ghost.state_dict())
    assert ghost.num_batches_tracked == 2 * len(ghost_sizes(examples, GHOST))


@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_running_printed_is_the_papers_algorithm_to_the_letter(examples: int, way: str) -> None:
    ghost, plain = pair("2d", {"momentum": 0.3}, running="printed")
    x = batch("2d", examples)
    expected = as_printed(plain, x, ghost_sizes(examples, GHOST), GHOST)
    ghost(x)
    assert_close((ghost.running_mean, ghost.running_var), expected, rtol=1e-10, atol=1e-12)


def weights_of(running: Any) -> tuple[float, list[float]]:
    """What history and each of 32 ghosts of 128 weigh in the running mean at momentum 0.1."""
    layer = GhostBatchNorm1d(33, 128, running=running, dtype=torch.float64)
    assert layer.running_mean is not None
    layer.running_mean[0] = 1.0  # channel 0 shows history, channel l ghost l
    ghosts = torch.eye(33, dtype=torch.float64)[1:]
    layer.fold(ghosts, ghosts)
    history, *weights = layer.running_mean.tolist()
    return history, weights


def test_the_printed_update_forgets_history_and_prefers_the_first_ghost() -> None:
    history, weights = weights_of("printed")
    assert history == pytest.approx(1.4e-6, rel=0.02)
    assert sum(weights) == pytest.approx(0.869, abs=5e-4)
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == pytest.approx(0.09, rel=1e-12)


def test_the_other_updates_are_averages_that_remember_as_the_reference_says() -> None:
    found = {running: weights_of(running) for running in ("sequential", "mean", "scaled")}
    for history, weights in found.values():
        assert history + sum(weights) == pytest.approx(1.0, rel=1e-12)
        assert weights == sorted(weights)  # the last ghost weighs most, or all the same
    assert found["sequential"][0] == pytest.approx(0.9**32, rel=1e-12)  # about 10 ghosts, under one update
    assert found["mean"][0] == pytest.approx(0.9, rel=1e-12)  # about 10 updates
    assert found["scaled"][0] == pytest.approx(0.9, rel=1e-2)  # as mean


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize(("examples", "chunks"), [(15, 3), (16, 5), (17, 4), (11, 7), (3, 2), (18, 1)])
def test_chunks_are_plain_batch_norm_run_on_torchs_chunks(
    examples: int, chunks: int, momentum: float | None, way: str
) -> None:
    ghost, plain = pair("2d", {"momentum": momentum})
    convert_ghost_batch_norm(ghost, GHOST, chunks=chunks)
    for _ in range(2):
        x = batch("2d", examples).requires_grad_()
        y, expected = ghost(x), chunk_by_chunk(plain, x, chunks)
        assert_close(y, expected, rtol=1e-10, atol=1e-12)
        assert_close(gradients(y, x, ghost), gradients(expected, x, plain), rtol=1e-10, atol=1e-12)
    assert_close(ghost.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


def test_the_partial_batch_of_the_paper_is_cut_into_32_chunks() -> None:
    ghost = convert_ghost_batch_norm(GhostBatchNorm1d(3, 128, dtype=torch.float64), 128, chunks=32)
    x = batch("1d", 848)
    y = ghost(x)
    assert ghost.num_batches_tracked == 32
    assert_close(y[31 * 27 :].mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)  # the last ghost has 11
    ghost(batch("1d", 4096))
    assert ghost.num_batches_tracked == 64


def test_both_ways_agree() -> None:
    x, weight, bias = batch("2d", 18), torch.randn(3).double(), torch.randn(3).double()
    sizes = [5, 5, 5, 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rebatch.nn.normalization.LARGE_GHOST", 0)
        assert not folds(x, sizes)
        sliced = normalize_ghosts(x, weight, bias, sizes, 1e-5)
    assert folds(x, sizes)
    assert_close(sliced, normalize_ghosts(x, weight, bias, sizes, 1e-5), rtol=1e-10, atol=1e-12)


def test_large_ghosts_on_a_cpu_are_sliced_and_everything_else_is_folded() -> None:
    assert not folds(torch.empty(8, 64, 16, 16), [4, 4])
    assert folds(torch.empty(8, 64, 1, 1), [4, 4])
    assert folds(torch.empty(1024, 64, 2, 2), [4] * 256)
    assert folds(torch.empty(8, 64, 16, 16, device="meta"), [4, 4])


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_right(case: str, way: str) -> None:
    ghost, _ = pair(case, {})
    x = batch(case, 8).requires_grad_()
    assert torch.autograd.gradcheck(ghost, (x,))


def test_second_derivatives_are_right(way: str) -> None:
    x = batch("2d", 8)[..., :1].requires_grad_()
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalize_ghosts(x, weight, bias, [5, 3], 1e-5)[0]

    assert torch.autograd.gradgradcheck(output, (x, weight, bias))


def test_statistics_carry_no_gradient(way: str) -> None:
    x = batch("2d", 8).requires_grad_()
    y, means, variances = normalize_ghosts(x, None, None, [5, 3], 1e-5)
    assert [tensor.requires_grad for tensor in (y, means, variances)] == [True, False, False]


def test_the_weight_gets_its_gradient_where_the_input_needs_none(way: str) -> None:
    ghost, plain = pair("2d", {})
    ghost(batch("2d", 18)).square().sum().backward()
    torch.autograd.backward(ghost_by_ghost(plain, batch("2d", 18), [5, 5, 5, 3]).square().sum())
    for own, expected in zip(ghost.parameters(), plain.parameters(), strict=True):
        assert_close(own.grad, expected.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_gets_no_gradient_and_takes_none_away(frozen: str, way: str) -> None:
    ghost, plain = pair("2d", {})
    x = batch("2d", 18).requires_grad_()
    for layer in (ghost, plain):
        getattr(layer, frozen).requires_grad_(False)
    torch.autograd.backward(ghost(x).square().sum())
    own, x.grad = x.grad, None
    torch.autograd.backward(ghost_by_ghost(plain, x, [5, 5, 5, 3]).square().sum())
    assert_close(own, x.grad, rtol=1e-10, atol=1e-12)
    assert getattr(ghost, frozen).grad is None


def test_the_weight_may_come_without_a_bias(way: str) -> None:
    ghost, plain = pair("2d", {})
    for layer in (ghost, plain):
        layer.register_parameter("bias", None)
    x = batch("2d", 18)
    assert_close(ghost(x), ghost_by_ghost(plain, x, [5, 5, 5, 3]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("case", LAYERS)
def test_evaluation_is_plain_batch_norm(case: str, flags: dict[str, Any]) -> None:
    ghost, plain = pair(case, flags)
    ghost(batch(case, 18))
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(ghost.eval()(batch(case, 7)), plain.eval()(batch(case, 7)))
    assert_close(ghost.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("parameters", [torch.float32, None], ids=["float32 parameters", "half parameters"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(
    dtype: torch.dtype, affine: bool, parameters: torch.dtype | None, way: str
) -> None:
    ghost = GhostBatchNorm2d(3, GHOST, affine=affine, momentum=1.0, dtype=parameters or dtype)
    x = batch("2d", 18, dtype).requires_grad_()
    exact = normalize_ghosts(x.double(), None, None, [5, 5, 5, 3], 1e-5)
    y, means, variances = normalize_ghosts(x, ghost.weight, ghost.bias, [5, 5, 5, 3], 1e-5)
    assert (y.dtype, means.dtype, variances.dtype) == (dtype, torch.float32, torch.float32)
    assert_close((means.double(), variances.double()), exact[1:], rtol=1e-5, atol=1e-6)
    assert_close(ghost(x).double(), exact[0], rtol=1e-2, atol=1e-2)  # half precision has 2 to 3 digits
    ghost(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in ghost.parameters())
    assert_close(ghost.running_mean, means[-1].to(parameters or dtype))


def test_half_precision_buffers_round_once() -> None:
    half, single = (GhostBatchNorm2d(3, GHOST, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for layer in (half, single):
        for buffer in (layer.running_mean, layer.running_var):
            assert buffer is not None
            buffer.fill_(1.2421875)  # a bfloat16 number whose 0.9^4 is not one
        layer(batch("2d", 18, torch.bfloat16))
    rounded = {name: buffer.to(half.state_dict()[name].dtype) for name, buffer in single.state_dict().items()}
    assert_close(half.state_dict(), rounded, rtol=0, atol=0)


def test_autocast_changes_neither_output_nor_statistics(way: str) -> None:
    inside, outside = (GhostBatchNorm2d(3, GHOST) for _ in range(2))
    x = batch("2d", 18, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = inside(x)
    assert torch.equal(y, outside(x))
    assert_close(inside.state_dict(), outside.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["2d", "3d"])
def test_channels_last_is_kept(case: str, dtype: torch.dtype, examples: int, way: str) -> None:
    ghost = LAYERS[case][0](3, GHOST)
    layout = LAYOUTS[2 + int(case[0])]
    x = batch(case, examples, dtype).to(memory_format=layout).requires_grad_()
    y = ghost(x)
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(x).contiguous())
    for tensor in (y, grad):
        assert tensor.is_contiguous(memory_format=layout)
        assert not tensor.is_contiguous()
    assert_close(y, ghost(x.detach().contiguous()), rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 2e-2)


def test_the_layout_of_input_and_gradient_does_not_change_the_numbers(way: str) -> None:
    ghost, _ = pair("2d", {})
    x, weights = batch("2d", 18), torch.randn(18, 3, 2, 7, dtype=torch.float64)
    results = []
    for layout, other in itertools.product(STRIDES.values(), repeat=2):
        own = layout(x).requires_grad_()
        y = ghost(own)
        results.append((y, torch.autograd.grad(y, own, other(weights))[0]))
    for result in results[1:]:
        assert_close(result, results[0], rtol=1e-10, atol=1e-12)


def test_an_expanded_gradient_is_taken(way: str) -> None:
    ghost, plain = pair("2d", {})
    x = batch("2d", 18).requires_grad_()
    (own,) = torch.autograd.grad(ghost(x).sum(), x)
    (expected,) = torch.autograd.grad(ghost_by_ghost(plain, x, [5, 5, 5, 3]).sum(), x)
    assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, as inductor loads
@pytest.mark.parametrize(
    ("backend", "running", "layout"),
    [("inductor", "sequential", torch.contiguous_format), ("aot_eager", "mean", torch.channels_last)],
    ids=str,
)
def test_it_compiles_without_a_graph_break(backend: str, running: Any, layout: torch.memory_format, way: str) -> None:
    eager, _ = pair("2d", {}, running=running)
    compiled_layer = copy.deepcopy(eager)
    compiled = torch.compile(compiled_layer, fullgraph=True, backend=backend)
    for _ in range(2):
        x = batch("2d", 18).to(memory_format=layout).requires_grad_()
        y, expected = compiled(x), eager(x)
        assert_close(y, expected, rtol=1e-10, atol=1e-12)
        assert_close(gradients(y, x, compiled_layer), gradients(expected, x, eager), rtol=1e-10, atol=1e-12)
    assert_close(compiled_layer.state_dict(), eager.state_dict(), rtol=1e-10, atol=1e-12)


def test_it_is_deterministic(way: str) -> None:
    results = []
    for _ in range(2):
        ghost, _ = pair("2d", {})
        x = batch("2d", 18, torch.float64).requires_grad_()
        y = ghost(x)
        results.append([y, *gradients(y, x, ghost), *ghost.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_checkpoints_go_both_ways_to_torch(flags: dict[str, Any]) -> None:
    ghost, plain = pair("2d", flags)
    ghost(batch("2d", 18))
    plain.load_state_dict(ghost.state_dict())
    assert list(plain.state_dict()) == list(ghost.state_dict())
    again, _ = pair("2d", flags)
    again.load_state_dict(plain.state_dict())
    assert_close(again.state_dict(), ghost.state_dict(), rtol=0, atol=0)


def test_a_copy_and_a_pickled_layer_give_the_same() -> None:
    ghost, _ = pair("2d", {"momentum": None}, running="mean")
    y = copy.deepcopy(ghost)(batch("2d", 18))
    assert torch.equal(pickle.loads(pickle.dumps(ghost))(batch("2d", 18)), y)
    assert torch.equal(ghost(batch("2d", 18)), y)


def test_a_ghost_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than 1 value per channel in each ghost.*\[1, 3\].*eval\(\)"):
        GhostBatchNorm1d(3, GHOST)(torch.rand(1, 3))
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*\[0, 3, 2, 2\]"):
        GhostBatchNorm2d(3, GHOST)(torch.rand(0, 3, 2, 2))
    GhostBatchNorm2d(3, GHOST)(torch.rand(1, 3, 2, 2))


@pytest.mark.parametrize("size", [1, 0, -3, 2.5])
def test_a_ghost_size_below_two_is_refused(size: Any) -> None:
    with pytest.raises(RequestError, match=rf"ghost_batch_size must be .* at least 2 .*got {size}; try 32"):
        GhostBatchNorm2d(3, size)


def test_an_unknown_way_to_track_is_refused() -> None:
    with pytest.raises(RequestError, match="running has no way 'men'; did you mean 'mean'"):
        GhostBatchNorm2d(3, GHOST, running="men")  # type: ignore[arg-type]


def test_inputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(3, GHOST)(torch.rand(7, 3))
    with pytest.raises(ValueError, match=r"expected 3 channels .*\[7, 2\]"):
        GhostBatchNorm1d(3, GHOST)(torch.rand(7, 2))


def test_its_line_names_the_ghosts() -> None:
    line = repr(GhostBatchNorm2d(3, GHOST))
    assert line.startswith("GhostBatchNorm2d(3, eps=1e-05")
    assert line.endswith("ghost_batch_size=5, running='sequential')")
