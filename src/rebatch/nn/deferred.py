"""Running statistics that do not depend on how a step is cut into micro-batches and ranks.

Ghosts enter the running statistics in ghost order, so they must wait until all micro-batches, of all ranks, are seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rebatch.nn.ghost_batch_norm import GhostBatchNorm


@contextmanager
def deferred_running_statistics(
    model: nn.Module, *, gather: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Callable[[], None]]:
    """Let the ghosts of all forward passes inside enter the running statistics on exit, in ghost order.

    Gives a function to call after each forward pass: it puts what is pending aside, so that a compiled layer always
    sees an empty list (torch.compile makes a graph for every length it meets). Without it the result is the same.

    `gather` maps this rank's rows to those of all ranks, in rank order: it is called once per layer that tracks
    statistics, in the order of `model.modules()` on every rank, with a tensor of shape (ghosts, 2 * C): means, then
    unbiased variances. A rank without ghosts passes 0 rows. After an exception inside, the statistics are dropped.

    The law needs each layer to run once per forward pass; one used twice sees its ghosts in the order of its calls.

    Raises RuntimeError where the statistics of `model` are deferred already.
    """
    layers = [m for m in model.modules() if isinstance(m, GhostBatchNorm) and m.track_running_stats]
    if any(layer.pending is not None for layer in layers):
        raise RuntimeError("running statistics of this model are deferred already; leave the outer block first")
    aside: list[list[Pair]] = [[] for _ in layers]
    for layer in layers:
        layer.pending = []

    def collect() -> None:
        for layer, pairs in zip(layers, aside, strict=True):
            assert layer.pending is not None
            pairs += layer.pending
            layer.pending.clear()

    try:
        yield collect
        collect()
        rows = [_rows(layer, pairs) for layer, pairs in zip(layers, aside, strict=True)]
    finally:
        for layer in layers:
            layer.pending = None
    for layer, own in zip(layers, rows, strict=True):
        means, variances = torch.split(gather(own) if gather else own, layer.num_features, dim=1)
        layer.fold(means, variances)


Pair = tuple[Tensor, Tensor]
"""Means and unbiased variances of some ghosts, each (ghosts, C)."""


def _rows(layer: GhostBatchNorm, pairs: list[Pair]) -> Tensor:
    """The statistics of a layer's ghosts as one table (ghosts, 2 * C), in ghost order."""
    assert layer.running_mean is not None
    if pairs:
        return torch.cat([torch.cat(pair, dim=1) for pair in pairs])
    buffer = layer.running_mean
    dtype = torch.promote_types(buffer.dtype, torch.float32)
    return torch.empty(0, 2 * layer.num_features, dtype=dtype, device=buffer.device)
