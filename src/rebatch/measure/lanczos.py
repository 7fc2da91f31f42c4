"""The largest eigenvalue of a symmetric matrix that is known by its products only, from a start that may be good.

Lanczos' method with thick restart (Wu and Simon, 2000, SIAM J. Matrix Anal. Appl. 22). SciPy's ARPACK does the same
from scratch, but gives nothing when it has to stop early, and cannot stop after a handful of products.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A vector of shape (D,) to the matrix times that vector, of the same shape, device and dtype."""

# The vectors that are kept, and how many of them a restart keeps: as many as ARPACK keeps for one eigenvalue.
BASIS, KEPT = 20, 10
# A residual of so many roundings of the largest eigenvalue seen is nothing but rounding.
ROUNDINGS = 100.0


@dataclass(frozen=True, eq=False)
class RitzPair:
    """The best that a subspace knows of the largest eigenvalue of a symmetric matrix A.

    Attributes:
        value: v'Av, at most the largest eigenvalue, and within `residual` of some eigenvalue; nan if a product was not
            finite.
        vector: v, of length 1, shape (D,).
        residual: |Av - value v|.
        products: how many products it took.
        converged: the residual is as small as was asked for, or as rounding allows, or the whole space was searched.
    """

    value: float
    vector: Tensor
    residual: float
    products: int
    converged: bool


def largest_eigenpair(
    product: Product, start: Tensor, *, tolerance: float, max_products: int, min_products: int = 1
) -> RitzPair:
    """Widen span(start, A start, A^2 start, ...) by a product each time until its best vector is good enough.

    Args:
        product: A times a vector; A symmetric, shape (D, D).
        start: any vector but 0, shape (D,); the closer to the eigenvector the better. An eigenvector to which it is
            orthogonal is not found.
        tolerance: converged where |Av - value v| <= tolerance |value|. That bounds the distance to some eigenvalue; the
            error is usually far smaller, about residual^2 / (distance to the next eigenvalue).
        max_products: stop there, converged or not; the best pair so far is given in any case.
        min_products: go on to that many: from a random start the first good pair need not be the largest.
    """
    space = _Subspace(min(BASIS, max_products, len(start)), start)
    direction, found = start, RitzPair(math.nan, start, math.nan, 0, False)
    for products in range(1, max_products + 1):
        if not space.widen(direction, product):
            return RitzPair(math.nan, start, math.nan, products, False)
        value, vector, direction, size = space.best()
        residual = float(torch.linalg.vector_norm(direction))
        whole = space.is_whole or residual <= ROUNDINGS * torch.finfo(start.dtype).eps * size
        enough = products >= min_products and residual <= tolerance * abs(value)
        found = RitzPair(value, vector, residual, products, whole or enough)
        if found.converged:
            break
        space.restart_if_full()
    return found


class _Subspace:
    """Orthonormal vectors, their products, and the small matrix of their inner products."""

    def __init__(self, size: int, like: Tensor) -> None:
        self._vectors, self._images = like.new_empty(size, len(like)), like.new_empty(size, len(like))
        self._projected = torch.zeros(size, size, dtype=torch.float64)  # its lower triangle
        self._count = 0

    @property
    def is_whole(self) -> bool:
        return self._count == self._vectors.shape[1]

    def widen(self, direction: Tensor, product: Product) -> bool:
        """Add what is new in `direction`; False if its product is not finite."""
        here, known = self._count, self._vectors[: self._count]
        for _ in range(2):  # once leaves rounding errors of the size of the old directions
            direction = direction - (known @ direction) @ known
            direction = direction / torch.linalg.vector_norm(direction)
        self._vectors[here] = direction
        self._images[here] = product(direction)
        self._count += 1
        row = (self._vectors[: self._count] @ self._images[here]).cpu().double()
        self._projected[here, : self._count] = row
        return bool(torch.isfinite(row).all())

    def best(self) -> tuple[float, Tensor, Tensor, float]:
        """The top Ritz value, its vector v, what Av has beyond it, and the largest Ritz value without its sign."""
        self._values, self._rotation = torch.linalg.eigh(self._projected[: self._count, : self._count])
        shares = self._rotation[:, -1].to(self._vectors)
        value = float(self._values[-1])
        vector, image = shares @ self._vectors[: self._count], shares @ self._images[: self._count]
        return value, vector, image - value * vector, float(self._values.abs().max())

    def restart_if_full(self) -> None:
        """Keep the top Ritz vectors: with the next direction they span all that is worth keeping of the old space."""
        if self._count < len(self._vectors):
            return
        kept = min(KEPT, self._count - 1)
        rotation = self._rotation[:, -kept:].T.to(self._vectors)
        self._vectors[:kept], self._images[:kept] = rotation @ self._vectors, rotation @ self._images
        self._projected.zero_()
        self._projected[:kept, :kept] = torch.diag(self._values[-kept:])
        self._count = kept
