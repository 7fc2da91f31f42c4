"""Turn every batch norm of a model into ghost batch norm, and back.

A layer stays the same object: only its class changes, as torch's lazy layers do when they learn their size. So
parameters, buffers, hooks, the training flag, sharing between places of the model, and an optimizer built before all
stay as they are, and a round trip leaves no trace.
"""

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch.errors import RequestError
from rebatch.nn.ghost_batch_norm import (
    GhostBatchNorm,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    Running,
    check_ghosts,
)

GHOST_OF: dict[type[nn.Module], type[GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
PLAIN_OF: dict[type[nn.Module], type[nn.Module]] = {ghost: plain for plain, ghost in GHOST_OF.items()}

REASONS: dict[type[nn.Module], str] = {
    nn.SyncBatchNorm: "it normalizes over all ranks, ghosts never do; use BatchNorm, whose ghosts stay on their rank",
    nn.LazyBatchNorm1d: "it does not know its size yet; run one batch through the model first",
    nn.LazyBatchNorm2d: "it does not know its size yet; run one batch through the model first",
    nn.LazyBatchNorm3d: "it does not know its size yet; run one batch through the model first",
}
ANOTHER = "it is not torch's own, and may do more than normalize; replace it, or convert before the model is wrapped"

M = TypeVar("M", bound=nn.Module)


def convert_ghost_batch_norm(
    model: M, ghost_batch_size: int, *, running: Running | None = None, chunks: int | None = None
) -> M:
    """Make every BatchNorm1d/2d/3d of `model` normalize ghosts of `ghost_batch_size` examples; returns `model`.

    Works in place, on the root too; layers that already have ghosts get the new size. `running` says how ghosts enter
    the running statistics; left out, it is "sequential", and what it was for layers that have ghosts. `chunks` cuts
    every batch into so many ghosts instead, a defect of the paper's released code (see `recipe.Defects`). Either all
    layers are converted or, with RequestError, none: SyncBatchNorm, lazy layers and other subclasses of torch's layers
    are refused.

    >>> convert_ghost_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), ghost_batch_size=32)[0].ghost_batch_size
    32
    """
    check_ghosts(ghost_batch_size, running or "sequential")
    for layer in _batch_norms(model):
        if type(layer) in GHOST_OF:
            layer.__class__ = GHOST_OF[type(layer)]
        kept = vars(layer).get("running", "sequential")
        vars(layer).update(ghost_batch_size=ghost_batch_size, running=running or kept)
        vars(layer).pop("chunks", None)
        if chunks is not None:
            vars(layer)["chunks"] = chunks
    return model


def revert_ghost_batch_norm(model: M) -> M:
    """Make every ghost batch norm of `model` plain again, in place; returns `model`.

    >>> type(revert_ghost_batch_norm(GhostBatchNorm1d(3, ghost_batch_size=32)))
    <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    for layer in model.modules():
        if type(layer) in PLAIN_OF:
            layer.__class__ = PLAIN_OF[type(layer)]
            for name in ("ghost_batch_size", "running", "pending", "chunks"):
                vars(layer).pop(name, None)
    return model


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in layers.items():
        if type(layer) not in GHOST_OF and type(layer) not in PLAIN_OF:
            where = f"layer {name!r}" if name else "the model itself"
            reason = REASONS.get(type(layer), ANOTHER)
            raise RequestError(f"cannot give ghosts to {where}, a {type(layer).__name__}: {reason}")
    return list(layers.values())
