"""How sharply does the loss curve? The largest eigenvalue of its Hessian, by Lanczos on Hessian-vector products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebatch.errors import RunError


@dataclass(frozen=True)
class TopEigenvalue:
    """The estimate, ||H v - value v|| of its eigenvector v of length 1, and how many products H v it took."""

    value: float
    residual: float
    products: int


def top_eigenvalue(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], *, seed: int = 0, tolerance: float = 1e-3
) -> TopEigenvalue:
    """The largest (most positive) eigenvalue of the Hessian of `loss` in `weights`, by implicitly restarted Lanczos.

    Args:
        loss: the scalar loss at the present weights, the same at each call; put the model into evaluation mode, or
            give it one fixed batch, so that nothing random or stateful is in it.
        weights: what the Hessian is taken in; shape of the Hessian (D, D), D their number together.
        seed: of the first vector.
        tolerance: relative accuracy of the eigenvalue.

    Raises:
        RunError: the iteration does not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    gradients = torch.autograd.grad(loss(), list(weights), create_graph=True)
    size, products = sum(weight.numel() for weight in weights), 0

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal products
        products += 1
        parts = torch.split(torch.from_numpy(vector.reshape(-1)), [weight.numel() for weight in weights])
        moved = [part.view(weight.shape).to(weight) for part, weight in zip(parts, weights, strict=True)]
        # The loss may be linear in some weights: their gradient is a constant, with nothing to differentiate.
        outputs, along = zip(*((g, v) for g, v in zip(gradients, moved, strict=True) if g.requires_grad), strict=True)
        found = torch.autograd.grad(outputs, list(weights), along, retain_graph=True, materialize_grads=True)
        flat: NDArray[np.float64] = torch.cat([each.reshape(-1) for each in found]).double().cpu().numpy()
        return flat

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    try:
        values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance)
    except ArpackNoConvergence as error:
        raise RunError(f"the top eigenvalue did not converge in {products} products: {error}") from error
    residual = float(np.linalg.norm(product(vectors[:, 0]) - values[0] * vectors[:, 0]))
    return TopEigenvalue(float(values[0]), residual, products)
