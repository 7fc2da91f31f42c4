"""How sharply does the loss curve? The largest eigenvalue of its Hessian, by Lanczos on Hessian-vector products.

In the metric of an adaptive optimizer, which divides each weight's step by P, it is that of P^-1/2 H P^-1/2 (Cohen et
al., 2022, arXiv 2207.14484: Adam trains where it is about (2 + 2 beta1)/((1 - beta1) lr), 38/lr for beta1 = 0.9; see
`adam_stable_lr`). `Curvature` follows either while a run goes on.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rebatch.errors import RequestError
from rebatch.fields import require_choice
from rebatch.measure.lanczos import Product, RitzPair, largest_eigenpair
from rebatch.measure.preconditioner import adam_denominator
from rebatch.measure.weight_space import ModelLoss, weight_space
from rebatch.observation import Observation, Observer, trainable

__all__ = ["Curvature", "TopEigenvalue", "hessian_product", "top_eigenvalue"]

# In gradients of the same loss, by the multiplications of a linear or convolutional layer: its forward pass takes one,
# its backward pass two, and differentiating these three takes twice as many. Measured on a CNN of 65,000 weights, one
# thread, batches of 32 to 128: 1.0 to 1.15 for the gradient with its graph; a product through it 1.3 to 1.5, and 2.4 to
# 2.7 with batch norm in training mode, whose second derivative torch puts together from parts.
GRAPH_GRADIENTS, PRODUCT_GRADIENTS = 1.0, 2.0

# A random vector is mistaken for converged before it has met the largest eigenvalue, unless so many products are taken.
FROM_RANDOM = 20
# The same from the last look's vector, which another eigenvector may have overtaken.
FROM_LAST = 3


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest eigenvalue as far as it was found, with what is known of its error and its cost.

    It is v'Hv for a vector v of length 1. So it is never above the largest eigenvalue (but for rounding), and some
    eigenvalue lies within [low, high] = value -+ residual: *an* eigenvalue, which nothing proves to be the largest.

    Attributes:
        value: v'Hv; nan if the loss was not finite.
        residual: |Hv - value v|.
        products: how many products Hv it took.
        converged: the residual came below the tolerance; otherwise this is the best that was found.
        gradients: the cost in gradients of the same loss: 1, and 2 for each product.
    """

    value: float
    residual: float
    products: int
    converged: bool
    gradients: float

    @property
    def estimate(self) -> float:
        """The value."""
        return self.value

    @property
    def low(self) -> float:
        """Below it by the residual."""
        return self.value - self.residual

    @property
    def high(self) -> float:
        """Above it by the residual."""
        return self.value + self.residual

    def __str__(self) -> str:
        """`12.3, 12.1 to 12.5 (converged; 4 products, 9 gradients)`."""
        state = "converged" if self.converged else "not converged"
        cost = f"{self.products} products, {self.gradients:.3g} gradients"
        return f"{self.value:.4g}, {self.low:.4g} to {self.high:.4g} ({state}; {cost})"


def top_eigenvalue(
    loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    preconditioner: Sequence[Tensor] | None = None,
    max_products: int = 500,
) -> TopEigenvalue:
    """The largest (most positive) eigenvalue of the Hessian H of `loss` in `weights`, or of P^-1/2 H P^-1/2.

    Args:
        loss: the scalar loss at the present weights, evaluated once; put the model into evaluation mode, or give it one
            fixed batch. Batch norm in training mode moves its running statistics: wrap this in `undisturbed`.
        weights: what the Hessian is taken in; shape of the Hessian (D, D), D their number together.
        seed: of the first vector.
        tolerance: converged where the residual is that part of the eigenvalue; its error is usually far smaller.
        preconditioner: the diagonal of P, a positive tensor of each weight's shape, such as `adam_denominator` gives.
        max_products: more are not taken; where they do not suffice, `converged` says so.

    Raises:
        RequestError: a preconditioner that is not positive.
    """
    product = hessian_product(loss, weights, preconditioner)
    start = _random_vector(weights, seed)
    return _found(
        largest_eigenpair(product, start, tolerance=tolerance, min_products=FROM_RANDOM, max_products=max_products)
    )


def hessian_product(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], preconditioner: Sequence[Tensor] | None = None
) -> Product:
    """v to Hv, or to P^-1/2 H P^-1/2 v: the loss is evaluated once, and its graph kept as long as the function lives.

    Vectors are flat, of shape (D,), on the first weight's device, in float32 or the weights' wider dtype.

    Raises:
        RequestError: a preconditioner that is not positive.
    """
    gradients = torch.autograd.grad(loss(), list(weights), create_graph=True, materialize_grads=True)
    # The loss may be linear in some weights: their gradient is a constant, with nothing to differentiate.
    curved = [place for place, gradient in enumerate(gradients) if gradient.requires_grad]
    scale = None if preconditioner is None else _inverse_root(preconditioner, weights)

    def product(vector: Tensor) -> Tensor:
        if not curved:  # what torch gives for no outputs is not written down
            return torch.zeros_like(vector)
        along = _split(vector if scale is None else scale * vector, weights)
        outputs, vectors = [gradients[place] for place in curved], [along[place] for place in curved]
        found = torch.autograd.grad(outputs, list(weights), vectors, retain_graph=True, materialize_grads=True)
        image = _flat(found, like=vector)
        return image if scale is None else scale * image

    return product


Norm = Literal["euclidean", "adam"]


class Curvature(Observer):
    """Follows the largest Hessian eigenvalue of one fixed batch while a run goes on, for a few products per look.

    Each look starts at the eigenvector of the last one. The first look takes about 20 products; those 100 steps apart
    on small networks 4 or 5, with an error that is mostly below 0.1 % and rarely above 1 %. That costs 2 to 4 % of the
    steps between if the batch is a quarter of the training batch, 5 to 7 % if it is half of it. Rows and the summary
    show the last look, not the row's step. Several ranks all do the same, so give all of them the same batch.

    Args:
        loss: the mean loss of the batch, in the layers' present modes: in training mode batch norm couples its
            examples, as in a step.
        every: look at every so many steps, the first included.
        norm: "euclidean" is SGD's; `stable_lr` has its limit. "adam" takes P = sqrt(v) + eps from the optimizer, as of
            its last step, and waits for that; `adam_stable_lr` has its limit.
        tolerance: a look is done when the residual is that part of the eigenvalue.
        max_products: or after so many products, not converged; the next look goes on from there.
        seed: of the first vector, and of what the model draws in the loss (dropout).

    Raises:
        RequestError: norm="adam" and an optimizer that keeps no squared gradients.
    """

    def __init__(
        self,
        loss: ModelLoss,
        *,
        every: int = 100,
        norm: Norm = "euclidean",
        tolerance: float = 0.03,
        max_products: int = 8,
        seed: int = 0,
    ) -> None:
        require_choice("norm", norm, Norm)
        if every < 1 or tolerance <= 0.0 or max_products < FROM_LAST:
            raise RequestError(
                f"Curvature needs every >= 1, tolerance > 0 and max_products >= {FROM_LAST}, "
                f"got {every}, {tolerance} and {max_products}"
            )
        self._loss, self._every, self._norm, self._seed = loss, every, norm, seed
        self._tolerance, self._max_products = tolerance, max_products
        self._name = "top_eigenvalue" if norm == "euclidean" else f"{norm}_top_eigenvalue"

    def start(self, model: nn.Module) -> None:
        """Forget what was found."""
        self._next = 0
        self._vector: Tensor | None = None
        self._found: TopEigenvalue | None = None

    def step(self, observation: Observation) -> None:
        """Look, if it is time."""
        if observation.step < self._next:
            return
        scaled = self._scaled(observation)
        if not scaled:  # the optimizer has not stepped yet
            return
        pair = self._look(observation.model, scaled)
        self._found, self._vector = _found(pair), pair.vector if math.isfinite(pair.value) else None
        self._next = observation.step - observation.step % self._every + self._every

    def estimate(self) -> TopEigenvalue | None:
        """What the last look found; None before the first."""
        return self._found

    def summary(self, model: nn.Module) -> Mapping[str, TopEigenvalue]:
        """What the last look found."""
        return {} if self._found is None else {self._name: self._found}

    def row(self, model: nn.Module) -> Mapping[str, float]:
        """Value and residual of the last look."""
        if self._found is None:
            return {}
        return {self._name: self._found.value, f"{self._name}_residual": self._found.residual}

    def state_dict(self) -> dict[str, Any]:
        """The last look, and when the next one is due."""
        found = None if self._found is None else dataclasses.asdict(self._found)
        return {"next": self._next, "vector": self._vector, "found": found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self._next, self._vector = state["next"], state["vector"]
        self._found = None if state["found"] is None else TopEigenvalue(**state["found"])

    def _scaled(self, observation: Observation) -> dict[int, Tensor | None]:
        """Positions of the weights that are looked at, each with its P."""
        parameters = trainable(observation.model)
        if self._norm == "euclidean":
            return dict.fromkeys(range(len(parameters)))
        assert observation.optimizer is not None
        known = {place: adam_denominator(observation.optimizer, each) for place, each in enumerate(parameters)}
        return {place: denominator for place, denominator in known.items() if denominator is not None}

    def _look(self, model: nn.Module, scaled: Mapping[int, Tensor | None]) -> RitzPair:
        # Aliases of the weights: what is differentiated here shows on no hook and in no `.grad`.
        aliases = [parameter.detach().requires_grad_() for parameter in trainable(model)]
        weights = [aliases[place] for place in scaled]
        preconditioner = [each for each in scaled.values() if each is not None]
        with weight_space(model, self._loss, seed=self._seed) as loss:
            product = hessian_product(partial(loss, aliases), weights, preconditioner or None)
            return self._solve(product, _random_vector(weights, self._seed))

    def _solve(self, product: Product, fresh: Tensor) -> RitzPair:
        last = self._vector
        if last is None or last.shape != fresh.shape:
            limits = {"min_products": FROM_RANDOM, "max_products": 2 * FROM_RANDOM}
            return largest_eigenpair(product, fresh, tolerance=self._tolerance, **limits)
        limits = {"min_products": FROM_LAST, "max_products": self._max_products}
        return largest_eigenpair(product, last.to(fresh), tolerance=self._tolerance, **limits)


def _found(pair: RitzPair) -> TopEigenvalue:
    gradients = GRAPH_GRADIENTS + PRODUCT_GRADIENTS * pair.products
    return TopEigenvalue(pair.value, pair.residual, pair.products, pair.converged, gradients)


def _random_vector(weights: Sequence[Tensor], seed: int) -> Tensor:
    numbers = np.random.default_rng(seed).standard_normal(sum(weight.numel() for weight in weights))
    return torch.from_numpy(numbers).to(weights[0].device, _wide(weights))


def _wide(weights: Sequence[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (weight.dtype for weight in weights), torch.float32)


def _inverse_root(preconditioner: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    diagonal = _flat(preconditioner, like=weights[0].new_empty(0, dtype=_wide(weights)))
    lowest = float(diagonal.min())
    if not lowest > 0.0:
        raise RequestError(f"a preconditioner must be positive, got {lowest:g}; an eps > 0 makes Adam's so")
    return diagonal.rsqrt()


def _flat(parts: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.cat([part.detach().reshape(-1).to(like) for part in parts])


def _split(vector: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(vector, [weight.numel() for weight in weights])
    return [part.view(weight.shape).to(weight) for part, weight in zip(parts, weights, strict=True)]
