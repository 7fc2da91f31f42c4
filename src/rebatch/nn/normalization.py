"""Normalize every ghost of a batch with its own mean and variance, in the way that the device does fastest.

Three ways give the same numbers (tests hold them together):

* sliced: torch's own kernel, ghost by ghost, writing into slices of one output. No copy; on a CPU as fast as plain
  batch norm on the whole batch, or faster, since a ghost stays in the cache.
* folded: ghosts become channels, and torch's own kernel runs once. Two copies, but no loop: for devices where launches
  dominate, for ghosts too small to pay for a call each, and for compilers on those devices, which fuse the copies away.
* summed: sums over each example, then over a ghost's examples, for compilers on a CPU. They fuse with what stands
  around batch norm; inductor's own batch norm (Welford's recurrence) does not, and is no faster than torch's kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE_GHOST = 2**14
"""Values in a ghost from which slicing wins on a CPU; below, folding is up to 4 times faster (measured)."""

HALF = (torch.float16, torch.bfloat16)

Normalized = tuple[Tensor, Tensor, Tensor]


def normalize_ghosts(x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: list[int], eps: float) -> Normalized:
    """Normalize contiguous ghosts one by one: (output, means, unbiased variances).

    `x` has shape (N, C, *) and `sizes` adds up to N; all but the last are equal. The output has the shape, dtype and
    memory format of `x`; means and variances have shape (ghosts, C), carry no gradient, and are float32 for
    half-precision inputs, else of the dtype of `x`.
    """
    weight, bias = parameter_beside(weight, 1.0, x), parameter_beside(bias, 0.0, x)
    if folds(x, sizes):
        return folded(x, weight, bias, sizes, eps)
    y, means, variances, _ = Sliced.apply(_dense(x), weight, bias, sizes, eps)  # type: ignore[no-untyped-call]
    return y, means, variances


def folds(x: Tensor, sizes: list[int]) -> bool:
    """Which way to take; the only place that looks at the device."""
    return x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() < LARGE_GHOST * len(sizes)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Statistics are float32 at least: half precision would lose them."""
    return torch.float32 if x.dtype in HALF else x.dtype


def folded(x: Tensor, weight: Tensor, bias: Tensor, sizes: list[int], eps: float) -> Normalized:
    """All ghosts in one call, a last one of another size in a second; differentiable twice where not compiled."""
    equal = summed if x.device.type == "cpu" and torch.compiler.is_compiling() else _folded_equal
    last = sizes[-1]
    if last == sizes[0]:
        return equal(x, weight, bias, len(sizes), eps)
    first, rest = torch.split(x, [x.shape[0] - last, last])  # not slices: their gradients fill two whole batches
    y, means, variances = equal(first, weight, bias, len(sizes) - 1, eps)
    y_rest, means_rest, variances_rest = equal(rest, weight, bias, 1, eps)
    return torch.cat((y, y_rest)), torch.cat((means, means_rest)), torch.cat((variances, variances_rest))


def _folded_equal(x: Tensor, weight: Tensor, bias: Tensor, ghosts: int, eps: float) -> Normalized:
    channels_last = _memory_format(x) != torch.contiguous_format
    columns = _fold_channels_last(x, ghosts) if channels_last else _fold(x, ghosts)
    means, variances = _blank_statistics(2, columns.shape[1:2], x)
    # With momentum 1 the "running" statistics are the ghost's own: the mean, and the unbiased variance.
    columns = F.batch_norm(columns, means, variances, weight.repeat(ghosts), bias.repeat(ghosts), True, 1.0, eps)
    y = _unfold_channels_last(columns, ghosts, x.shape) if channels_last else _unfold(columns, ghosts)
    return y, means.view(ghosts, -1), variances.view(ghosts, -1)


def _fold(x: Tensor, ghosts: int) -> Tensor:
    """(N, C, *) -> (N / ghosts, ghosts * C, *)."""
    return torch.unflatten(x, 0, (ghosts, -1)).transpose(0, 1).flatten(1, 2)


def _unfold(columns: Tensor, ghosts: int) -> Tensor:
    return torch.unflatten(columns, 1, (ghosts, -1)).transpose(0, 1).flatten(0, 1)


def _fold_channels_last(x: Tensor, ghosts: int) -> Tensor:
    """(N, C, *) -> (N / ghosts * positions, ghosts * C), so that one copy does, and the gradient is channels last."""
    rows = x.movedim(1, -1).flatten(1, -2)
    return torch.unflatten(rows, 0, (ghosts, -1)).permute(1, 2, 0, 3).flatten(2, 3).flatten(0, 1)


def _unfold_channels_last(columns: Tensor, ghosts: int, shape: torch.Size) -> Tensor:
    rows = columns.view(shape[0] // ghosts, -1, ghosts, shape[1]).permute(2, 0, 1, 3).flatten(0, 1)
    return torch.unflatten(rows, 1, shape[2:]).movedim(-1, 1)


def summed(x: Tensor, weight: Tensor, bias: Tensor, ghosts: int, eps: float) -> Normalized:
    """Ghosts of equal size by sums over examples, as `normalize_ghosts`; slow unless compiled."""
    found: Normalized = torch.ops.rebatch.summed(x, weight, bias, ghosts, eps)
    return found


class Summed(torch.autograd.Function):
    """Two passes over an example while it is in the cache, then few numbers are left: one per example and channel.

    No difference of large sums is taken (as in E[x^2] - E[x]^2): squares are of deviations from the example's own mean,
    and examples are put together as in Chan, Golub, LeVeque, 1979. Tensors are (ghosts, examples, C, positions).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, ghosts: int, eps: float) -> tuple[Tensor, ...]:
        """Output, means, unbiased variances."""
        values = _by_example(x, ghosts)
        _, examples, _, positions = values.shape
        count = examples * positions
        # Factors stand inside the sums: what follows a sum would be computed anew for every value.
        own_means = values.sum(3, keepdim=True) * (1 / positions)
        deviations = (values - own_means).square().sum(3, keepdim=True)
        means = (own_means * (1 / examples)).sum(1, keepdim=True)
        variances = ((deviations + positions * (own_means - means).square()) * (1 / count)).sum(1, keepdim=True)
        inverse_stds = (variances + eps).rsqrt()
        y = (values - means) * (inverse_stds * weight.unsqueeze(1)) + bias.unsqueeze(1)
        means_, variances_ = means.view(ghosts, -1), variances.view(ghosts, -1) * (count / (count - 1))
        ctx.mark_non_differentiable(means_, variances_)
        ctx.save_for_backward(x, weight, means, inverse_stds)
        return y.view(x.shape).to(x.dtype, copy=True), means_, variances_  # no view: an activation may write into it

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias."""
        x, weight, means, inverse_stds = ctx.saved_tensors
        ghosts = means.shape[0]
        centered, g = _by_example(x, ghosts) - means, _by_example(grad, ghosts)
        count = x.numel() // (ghosts * x.shape[1])
        sums, products = g.sum(3, keepdim=True), (g * centered).sum(3, keepdim=True)
        constant = (sums * (1 / count)).sum(1, keepdim=True)
        slope = (products * (inverse_stds.square() * (1 / count))).sum(1, keepdim=True)
        grad_x = (g - constant - centered * slope) * (inverse_stds * weight.unsqueeze(1))
        grad_weight, grad_bias = (products * inverse_stds).sum((0, 1, 3)), sums.sum((0, 1, 3))
        grad_x = grad_x.to(x.dtype).view(x.shape).contiguous(memory_format=_memory_format(x))
        return grad_x, grad_weight, grad_bias, None, None


# An operator, so that dynamo leaves it whole for inductor: traced by dynamo, an autograd function warns that it is old.
torch.library.define(
    "rebatch::summed", "(Tensor x, Tensor weight, Tensor bias, int ghosts, float eps) -> (Tensor, Tensor, Tensor)"
)
torch.library.impl("rebatch::summed", "CompositeImplicitAutograd", Summed.apply)


def _by_example(x: Tensor, ghosts: int) -> Tensor:
    """(N, C, *) -> (ghosts, N / ghosts, C, positions), never in half precision."""
    return x.to(statistics_dtype(x)).reshape(ghosts, -1, x.shape[1], x.shape[2:].numel())


class Sliced(torch.autograd.Function):
    """torch's batch norm, ghost by ghost, into slices of one output; returns the saved 1/std as a fourth output."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, ...]:
        """Output, means, unbiased variances, 1/std."""
        y = torch.empty_like(x)
        means, variances, saved_means, inverse_stds = _blank_statistics(4, (len(sizes), x.shape[1]), x)
        slices = (torch.split(x, sizes), torch.split(y, sizes), means, variances, saved_means, inverse_stds)
        for x_g, y_g, mean, variance, saved_mean, inverse_std in zip(*slices, strict=True):
            torch.ops.aten.native_batch_norm.out(
                x_g, weight, bias, mean, variance, True, 1.0, eps,
                out=y_g, save_mean=saved_mean, save_invstd=inverse_std,
            )  # fmt: skip
        return y, means, variances, inverse_stds

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward kernel needs; statistics carry no gradient."""
        x, weight, bias, ctx.sizes, ctx.eps = inputs
        _, means, variances, inverse_stds = output
        ctx.mark_non_differentiable(means, variances, inverse_stds)
        ctx.save_for_backward(x, weight, bias, means, inverse_stds)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias."""
        x, weight, bias, means, inverse_stds = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the kernel below leaves no graph, so take the other way
            return *_folded_gradients(grad, x, weight, bias, ctx), None, None
        # One layout for both: the kernel reads two different ones 5 times slower (measured), expanded gradients too.
        grad = grad.contiguous(memory_format=_memory_format(x))
        grad_x = torch.empty_like(x)
        grad_weights, grad_biases = _blank_statistics(2, means.shape, x)
        slices = (torch.split(t, ctx.sizes) for t in (grad, x, grad_x))
        for grad_g, x_g, grad_x_g, mean, inverse_std, grad_weight, grad_bias in zip(
            *slices, means, inverse_stds, grad_weights, grad_biases, strict=True
        ):
            torch.ops.aten.native_batch_norm_backward.out(
                grad_g, x_g, weight, None, None, mean, inverse_std, True, ctx.eps, (True, True, True),
                out0=grad_x_g, out1=grad_weight, out2=grad_bias,
            )  # fmt: skip
        return grad_x, grad_weights.sum(0), grad_biases.sum(0), None, None


def _folded_gradients(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, ctx: Any) -> list[Tensor | None]:
    inputs, needed = (x, weight, bias), ctx.needs_input_grad
    y = folded(x, weight, bias, ctx.sizes, ctx.eps)[0]
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=False) if need]
    gradients = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(gradients) if need else None for need in needed[:3]]


def parameter_beside(parameter: Tensor | None, default: float, x: Tensor) -> Tensor:
    """The parameter, or what stands for it in a layer without one; float32 beside half-precision inputs.

    torch's kernels keep their statistics in float32 where the parameters beside a half-precision input are float32.
    """
    dtype = statistics_dtype(x)
    if parameter is None:
        return torch.full((x.shape[1],), default, dtype=dtype, device=x.device)
    return parameter.to(dtype) if x.dtype in HALF else parameter


def _blank_statistics(count: int, rows: Sequence[int], x: Tensor) -> tuple[Tensor, ...]:
    """`count` tables of zeros. Not empty memory: the kernels compute 0 * old + 1 * new, and 0 * NaN is NaN."""
    return torch.zeros(count, *rows, dtype=statistics_dtype(x), device=x.device).unbind()


def _dense(x: Tensor) -> Tensor:
    """The kernel takes the output's layout from the input: both must be one of torch's memory formats."""
    return x.contiguous(memory_format=_memory_format(x))


def _memory_format(x: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() in formats and not x.is_contiguous() and x.is_contiguous(memory_format=formats[x.dim()]):
        return formats[x.dim()]
    return torch.contiguous_format
