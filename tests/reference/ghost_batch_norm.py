"""The slow, obviously right twin: torch's plain batch norm, run on the ghosts one by one."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def ghost_by_ghost(plain: _BatchNorm, x: Tensor, sizes: list[int]) -> Tensor:
    """Output of `plain` on each ghost alone, joined; its running statistics take one step per ghost."""
    return torch.cat([plain(ghost) for ghost in x.split(sizes)])  # type: ignore[no-untyped-call]


def mean_of_ghosts(plain: _BatchNorm, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Running statistics of `plain` after one step with the average of the ghosts' means and unbiased variances."""
    assert plain.running_mean is not None
    assert plain.running_var is not None
    assert plain.momentum is not None
    ghosts = [ghost.transpose(0, 1).flatten(1) for ghost in x.split(sizes)]  # type: ignore[no-untyped-call]
    mean = sum(ghost.mean(1) for ghost in ghosts) / len(ghosts)
    variance = sum(ghost.var(1, correction=1) for ghost in ghosts) / len(ghosts)
    kept = 1 - plain.momentum
    return kept * plain.running_mean + plain.momentum * mean, kept * plain.running_var + plain.momentum * variance


def scaled_steps(plain: _BatchNorm, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Running statistics of `plain` after one step of its momentum over the number of ghosts for each ghost."""
    assert plain.running_mean is not None
    assert plain.running_var is not None
    assert plain.momentum is not None
    mean, variance, momentum = plain.running_mean, plain.running_var, plain.momentum / len(sizes)
    for ghost in x.split(sizes):  # type: ignore[no-untyped-call]
        columns = ghost.transpose(0, 1).flatten(1)
        mean = (1 - momentum) * mean + momentum * columns.mean(1)
        variance = (1 - momentum) * variance + momentum * columns.var(1, correction=1)
    return mean, variance


def as_printed(plain: _BatchNorm, x: Tensor, sizes: list[int], ghost_batch_size: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 to the letter: history by (1 - eta)^|B_S|, ghost i = 1, 2, ... by (1 - eta)^i eta."""
    assert plain.running_mean is not None
    assert plain.running_var is not None
    assert plain.momentum is not None
    kept, eta = (1 - plain.momentum) ** ghost_batch_size, plain.momentum
    mean, variance = kept * plain.running_mean, kept * plain.running_var
    for i, ghost in enumerate(x.split(sizes), 1):  # type: ignore[no-untyped-call]
        columns = ghost.transpose(0, 1).flatten(1)
        mean = mean + (1 - eta) ** i * eta * columns.mean(1)
        variance = variance + (1 - eta) ** i * eta * columns.var(1, correction=1)
    return mean, variance


def chunk_by_chunk(plain: _BatchNorm, x: Tensor, chunks: int) -> Tensor:
    """Output of `plain` on each of torch's chunks, a last one of one example joined to the one before."""
    ghosts = list(torch.chunk(x, chunks))
    if len(ghosts[-1]) == 1:
        ghosts[-2:] = [torch.cat(ghosts[-2:])]
    return torch.cat([plain(ghost) for ghost in ghosts])


class ManyBatchNorms(nn.Module):
    """Every kind of place that a batch norm can have: nested, twice the same object, without parameters or buffers."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.BatchNorm2d(3, momentum=None)
        self.body = nn.Sequential(
            nn.Conv2d(2, 3, 1), shared, nn.Conv2d(3, 3, 1), shared, nn.BatchNorm2d(3, affine=False)
        )
        self.deep = nn.ModuleDict({"volume": nn.BatchNorm3d(1), "flat": nn.BatchNorm1d(3, track_running_stats=False)})
        self.norm = nn.GroupNorm(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, H, W) -> (N, 3)."""
        x = self.norm(self.body(x))
        x = self.deep["volume"](x.unsqueeze(1)).squeeze(1)
        flat: Tensor = self.deep["flat"](x.mean((2, 3)))
        return flat
