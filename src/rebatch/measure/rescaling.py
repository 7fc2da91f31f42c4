"""The same function by other weights: a ReLU lets positive factors through (Dinh et al., 2017, arXiv 1703.04933).

relu(a z) = a relu(z) for a > 0. So a times the layer before a ReLU and 1/a times the layer after it leave the function
as it is, while the Hessian in the first layer's weights shrinks by a^2 and in the second layer's grows by a^2. What is
said of the top eigenvalue is said of these weights, not of the function.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch.errors import RequestError


def rescale_relu(model: nn.Module, factor: float) -> None:
    """Multiply what enters the first ReLU of a chain of layers by `factor`, what leaves it by 1/factor, in place.

    Exact in floating point where `factor` is a power of two.

    Raises:
        RequestError: a factor that is not positive, or no ReLU between layers that can be rescaled.
    """
    if not factor > 0.0:
        raise RequestError(f"a ReLU lets positive factors through, got {factor:g}")
    pair = _around_relu(model)
    if pair is None:
        raise RequestError(
            f"no ReLU of {type(model).__name__} lies between a linear layer or batch norm and a linear layer of one "
            "chain (nn.Sequential); rescale the weights by hand"
        )
    before, after = pair
    for parameter in before.parameters():
        parameter.data.mul_(factor)
    after.weight.data.div_(factor)


def rescalable(model: nn.Module) -> bool:
    """Whether `rescale_relu` can be done."""
    return _around_relu(model) is not None


def _around_relu(model: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """The layers before and after the first ReLU that has such neighbors."""
    chain = list(model.children()) if isinstance(model, nn.Sequential) else []
    for before, relu, after in zip(chain, chain[1:], chain[2:], strict=False):
        scales = isinstance(before, nn.Linear) or (isinstance(before, _BatchNorm) and before.affine)
        if scales and isinstance(relu, nn.ReLU) and isinstance(after, nn.Linear):
            return before, after
    return None
