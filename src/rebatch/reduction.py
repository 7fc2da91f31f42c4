"""Is the loss of a step summed over its examples or averaged? The same optimization in either form.

Page (2018) sums. Then a step's gradient grows with the batch, so the rate and the decay are those of one example: a
batch kappa times as large keeps lr and multiplies weight decay by kappa, where the averaged form multiplies lr by kappa
and keeps weight decay. On full batches both forms are one optimization in two spellings. On a partial last batch of b
of B examples they are not: the mean gives each of its examples B / b times the weight of any other.
"""

from typing import assert_never

from msgspec.structs import replace

from rebatch.errors import RequestError
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, LossReduction, Muon, Optimizer, Recipe, RmsProp, Sgd

# What has the gradient's unit, or its inverse.
SCALED_FIELDS = ("optimizer.lr", "optimizer.weight_decay", "optimizer.eps", "max_grad_norm")


def with_loss_reduction(recipe: Recipe, reduction: LossReduction) -> Recipe:
    """The same optimization, up to a partial last batch, with the loss summed or averaged over a step's examples.

    LAMB's up to its eps, which guards two norms of different units.

    Raises:
        RequestError: LARS.

    >>> from rebatch.recipe import Epochs
    >>> mean = Recipe(batch_size=128, optimizer=Sgd(lr=0.1, weight_decay=5e-4), budget=Epochs(35))
    >>> summed = with_loss_reduction(mean, "sum").optimizer
    >>> summed.lr, summed.weight_decay
    (0.00078125, 0.064)
    """
    if recipe.loss_reduction == reduction:
        return recipe
    if recipe.batch_schedule:
        raise RequestError(
            "a recipe whose batch changes in size has no twin with the other loss_reduction: a summed gradient changes "
            "with the batch; leave batch_schedule out"
        )
    factor = recipe.batch_size if reduction == "sum" else 1 / recipe.batch_size
    tuned = None if recipe.tuned is None else with_loss_reduction(recipe.tuned, reduction)
    return with_gradient_times(recipe, factor).replace(loss_reduction=reduction, tuned=tuned)


def with_gradient_times(recipe: Recipe, factor: float) -> Recipe:
    """The recipe that moves the weights as `recipe` does where every gradient is `factor` times as large."""
    clip = recipe.max_grad_norm
    return recipe.replace(
        optimizer=_with_gradient_times(recipe.optimizer, factor), max_grad_norm=None if clip is None else clip * factor
    )


def _with_gradient_times(optimizer: Optimizer, factor: float) -> Optimizer:
    match optimizer:
        case Sgd(lr=lr, weight_decay=decay):
            return replace(optimizer, lr=lr / factor, weight_decay=decay * factor)
        case AdamW(eps=eps) | Lamb(eps=eps) | Muon(eps=eps):  # their decay is decoupled: no part of the gradient
            return replace(optimizer, eps=eps * factor)
        case RmsProp(eps=eps, weight_decay=decay) | Adagrad(eps=eps, weight_decay=decay):
            return replace(optimizer, eps=eps * factor, weight_decay=decay * factor)
        case Lion():  # a sign has no size
            return optimizer
        case Lars():
            raise RequestError(
                "a summed loss with LARS has no averaged form: its steps of matrices do not depend on the gradient's "
                "size, those of vectors do; average the loss, or take another optimizer"
            )
        case _:
            assert_never(optimizer)
