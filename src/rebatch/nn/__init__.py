"""Ghost batch norm, its conversion and statistics that survive any cut of a step; noise put into a built model."""

from rebatch.nn.conversion import convert_ghost_batch_norm, revert_ghost_batch_norm
from rebatch.nn.deferred import deferred_running_statistics
from rebatch.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from rebatch.nn.weight_noise import DropConnectConv2d, DropConnectLinear, add_weight_noise, draw_batch_norm_scale

__all__ = [
    "DropConnectConv2d",
    "DropConnectLinear",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "add_weight_noise",
    "convert_ghost_batch_norm",
    "deferred_running_statistics",
    "draw_batch_norm_scale",
    "revert_ghost_batch_norm",
]
