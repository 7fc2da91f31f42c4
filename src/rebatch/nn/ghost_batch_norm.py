"""Ghost batch normalization (Hoffer, Hubara, Soudry, 2017, Algorithm 1): normalize as if the batch were small.

A batch is cut into contiguous ghosts of `ghost_batch_size` examples, each is normalized with its own mean and variance,
and every ghost's statistics enter the running ones. In evaluation the layers are plain batch norm.

The paper's printed update of the running statistics is a misprint: it decays the history by (1 - momentum) to the power
of the ghost's *size*, and weighs the first ghost most. What is done here is what the authors' code does: one ordinary
step of the moving average per ghost, with the unbiased variance that torch tracks (the paper writes the deviation).
"""

import operator
from typing import Any, Literal, SupportsIndex, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch.cutting import chunk_sizes, ghost_sizes
from rebatch.errors import RequestError, did_you_mean
from rebatch.nn.normalization import normalize_ghosts

Running = Literal["sequential", "mean", "scaled", "printed"]


class GhostBatchNorm(_BatchNorm):
    """What the three layers share: torch's batch norm, but in training each ghost is normalized alone.

    `pending` is None where the statistics of a batch enter the running ones at once. Where it is a list, training
    appends (means, unbiased variances) to it and leaves the buffers alone, for a later `fold` in ghost order.
    `chunks` is a defect of the paper's released code, kept as a switch: every batch has that many ghosts, whatever its
    size, cut as `torch.chunk` cuts; `convert_ghost_batch_norm` sets it.
    """

    ghost_batch_size: int
    running: Running
    chunks: int | None = None
    pending: list[tuple[Tensor, Tensor]] | None = None

    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        running: Running = "sequential",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_ghosts(ghost_batch_size, running)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.ghost_batch_size = ghost_batch_size
        self.running = running

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """Normalize (N, C, *) ghost by ghost in training; plain batch norm in evaluation. Keeps dtype and layout.

        Raises ValueError where a ghost has one value per channel: that is a batch of one example of one position.
        """
        if not self.training:
            plain: Tensor = super().forward(input)
            return plain
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        sizes = self._ghosts_of(input)
        y, means, variances = normalize_ghosts(input, self.weight, self.bias, sizes, self.eps)
        if self.pending is not None:
            self.pending.append((means, variances))
        elif self.track_running_stats:
            self.fold(means, variances)
        return y

    @torch.no_grad()
    def fold(self, means: Tensor, variances: Tensor) -> None:
        """Let the statistics of any number of ghosts, in ghost order, enter the running ones.

        `means` and unbiased `variances` have shape (ghosts, C). With `running="sequential"` this equals one step of
        torch's moving average per ghost: for L ghosts and momentum m, the history keeps (1 - m)^L and ghost l = 1..L
        weighs m (1 - m)^(L - l). With `running="mean"` the plain average of the ghosts makes one step; with "scaled"
        every ghost makes a step of momentum m / L (Composer), so that history lasts as long as with "mean".
        "printed" is the paper's Algorithm 1 to the letter, to show what is wrong with it: history keeps (1 - m) to the
        power of the ghost's size and ghost l weighs m (1 - m)^l, so the first weighs most and the sum is not 1.
        `momentum=None` is the cumulative average, over ghosts or over means.
        """
        if means.shape[0] == 0:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if self.running == "mean":
            means, variances = means.mean(0, keepdim=True), variances.mean(0, keepdim=True)
        history, shares = self._shares(means)
        # Sums, not a matrix product: that one autocast and TF32 would round to half precision.
        for buffer, ghosts in ((self.running_mean, means), (self.running_var, variances)):
            buffer.copy_(history * buffer.to(ghosts.dtype) + (shares * ghosts).sum(0))
        self.num_batches_tracked.add_(means.shape[0])

    def _shares(self, means: Tensor) -> tuple[Any, Tensor]:
        assert self.num_batches_tracked is not None
        momentum, count = self.momentum, means.shape[0]
        if self.running == "scaled" and momentum is not None:
            momentum = momentum / count
        if self.running == "printed" and momentum is not None:
            rank = torch.arange(1, count + 1, dtype=means.dtype, device=means.device)
            return (1 - momentum) ** self.ghost_batch_size, (momentum * (1 - momentum) ** rank).unsqueeze(1)
        return _shares(means, momentum, self.num_batches_tracked)

    def extra_repr(self) -> str:
        """torch's own line, with the ghosts."""
        plain = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, ghost_batch_size={self.ghost_batch_size}, running={self.running!r}"

    def _ghosts_of(self, x: Tensor) -> list[int]:
        if x.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels (num_features), got input size {list(x.shape)}")
        # index: a compiler makes a symbol of a batch size that varies; a cut needs the number (one graph for each).
        examples = operator.index(x.shape[0])
        sizes = chunk_sizes(examples, self.chunks) if self.chunks else ghost_sizes(examples, self.ghost_batch_size)
        if min(sizes, default=0) * x.shape[2:].numel() < 2:
            raise ValueError(
                f"Expected more than 1 value per channel in each ghost when training, got input size {list(x.shape)}; "
                "use at least 2 examples or eval()"
            )
        return sizes


class GhostBatchNorm1d(GhostBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over ghosts, for inputs of shape (N, C) or (N, C, L).

    The first `ghost_batch_size` examples are the first ghost, and so on. A remainder is a ghost of its own; a remainder
    of one example joins the ghost before it; a batch smaller than one ghost is one ghost. Parameters, buffers, state
    dict and evaluation are torch's; `num_batches_tracked` counts ghosts (`running="mean"`: batches).

    Raises RequestError (a ValueError) for a `ghost_batch_size` below 2 and an unknown `running`.

    Source: Hoffer, Hubara, Soudry, 2017, Algorithm 1; running statistics as in the authors' code (see the module).

    >>> layer = GhostBatchNorm1d(3, ghost_batch_size=4)
    >>> layer(torch.rand(10, 3)).shape, layer.num_batches_tracked
    (torch.Size([10, 3]), tensor(3))
    """


class GhostBatchNorm2d(GhostBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over ghosts, for inputs of shape (N, C, H, W); the rest as `GhostBatchNorm1d`.

    >>> GhostBatchNorm2d(3, ghost_batch_size=4)(torch.rand(10, 3, 5, 7)).shape
    torch.Size([10, 3, 5, 7])
    """


class GhostBatchNorm3d(GhostBatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over ghosts, for inputs of shape (N, C, D, H, W); the rest as `GhostBatchNorm1d`.

    >>> GhostBatchNorm3d(3, ghost_batch_size=4)(torch.rand(10, 3, 2, 5, 7)).shape
    torch.Size([10, 3, 2, 5, 7])
    """


def check_ghosts(ghost_batch_size: int, running: str) -> None:
    """Raise RequestError for settings that no ghost batch norm can have."""
    if not isinstance(ghost_batch_size, SupportsIndex) or ghost_batch_size < 2:
        raise RequestError(
            f"ghost_batch_size must be a whole number of at least 2 (one example has no variance), "
            f"got {ghost_batch_size!r}; try 32"
        )
    if running not in get_args(Running):
        raise RequestError(f"running has no way {running!r}{did_you_mean(running, get_args(Running))}")


def _shares(ghosts: Tensor, momentum: float | None, tracked: Tensor) -> tuple[Any, Tensor]:
    """What the history keeps, and what each row of `ghosts` (ghosts, C) weighs: a number and a column (ghosts, 1)."""
    count = ghosts.shape[0]
    if momentum is None:
        total = (tracked + count).to(ghosts.dtype)
        return tracked / total, (1 / total).expand(count, 1)
    later = torch.arange(count - 1, -1, -1, dtype=ghosts.dtype, device=ghosts.device)
    return (1 - momentum) ** count, (momentum * (1 - momentum) ** later).unsqueeze(1)


def ghost_batch_sizes(model: nn.Module) -> set[int]:
    """The ghost batch sizes of a model's layers; empty where none has ghosts."""
    return {layer.ghost_batch_size for layer in model.modules() if isinstance(layer, GhostBatchNorm)}


def plain_batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """By name, the layers that normalize over all examples they are shown: cutting those changes what they give."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if not isinstance(layer, GhostBatchNorm)}
