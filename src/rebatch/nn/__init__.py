"""Ghost batch norm: layers, converting a model and back, and statistics that survive any cut of a step."""

from rebatch.nn.conversion import convert_ghost_batch_norm, revert_ghost_batch_norm
from rebatch.nn.deferred import deferred_running_statistics
from rebatch.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d

__all__ = [
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "convert_ghost_batch_norm",
    "deferred_running_statistics",
    "revert_ghost_batch_norm",
]
