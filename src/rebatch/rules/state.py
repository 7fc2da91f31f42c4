"""The state of an optimizer where the batch size changes in the middle of a run: what stays, what is multiplied?

The aim is the state that a run at the new batch size would have by now. Let every gradient grow by s, 1 for an averaged
loss and kappa for a summed one; a coordinate of it has mean G and, per example, variance sigma^2, so that
E g^2 = G^2 + sigma^2/B, which a larger batch divides by the gain (1 + B_n/B)/(1 + B_n/B').

* SGD's momentum buffer sums gradients, mu^k of one k steps old: its mean is G/(1 - mu), so x s (1 - mu)/(1 - mu'), and
  as it is for an averaged loss and the same mu. Where it sums steps (`lr_in_buffer`), x lr'/lr besides. The noise in it
  is that of the old batch and dies out within 1/(1 - mu) steps; no factor would mend it and leave the mean. Toward a
  larger batch and rate this is one long noisy step, which shows in the loss for a while (docs/live.md).
* Adam's first moment: mean G, so x s. Its second moment: x s^2 / gain, and without a noise scale x s^2 / kappa, as if
  noise dominated, which the square root rule and its equation take for granted too. One factor serves all coordinates,
  right for their sum: one that is all noise would want 1/kappa, one that is all signal 1.
* Adam's counter of steps enters by 1 - beta^step alone, the sum of the weights in a moment. It is set to step' with
  beta2'^step' = beta2^step: step / kappa where beta2' = beta2^kappa. One counter serves two betas, so the first moment
  is x (1 - beta1'^step')/(1 - beta1^step) besides. Both corrections are exact then, in this step and all later ones;
  what remains is that in the first 1/(1 - beta1) steps of a run old gradients weigh as those of step' steps would.
* RMSprop's average of squares as Adam's second moment, without a counter. Its momentum buffer sums gradients divided
  by the root of it: x sqrt(gain) (1 - mu)/(1 - mu'), where eps is small beside that root.
* Lion's moment and Muon's momentum are averages of gradients without a correction: x s. Where Lion's beta2' is
  beta2^kappa, an average has as much weight in it after step / kappa steps, and as much noise: all of its distribution
  is that of the new run. LAMB's moments as Adam's, without a counter: a layer's trust ratio takes out their common
  size. Muon's other weights as AdamW's.
* LARS's buffer sums gradients over their length, times that of the weights: x sqrt(gain) (1 - mu)/(1 - mu') where
  weight decay is small beside the gradient, whatever the loss's reduction. Vectors take SGD's steps, and its factor.
* Adagrad's sum of squares: 1/kappa times as many steps for the same examples, and smaller squares, so
  x s^2 / (kappa gain).
* An average of weights is one of weights at any batch size and stays; a counter of it moves as Adam's
  (`same_correction`).

Weight decay that is part of the gradient is carried as gradient. Where the gradient is clipped, G and sigma are those
of the clipped gradient. Going there and back restores the state, up to rounding.
"""

import math
from dataclasses import dataclass, replace

from rebatch.errors import RequestError
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, Muon, Recipe, RmsProp, Sgd, require_recipe
from rebatch.rules.move import Facts, Move, require_facts

Betas = tuple[float, float]


@dataclass(frozen=True)
class Counted:
    """Adam's counter of steps at the new batch size, and the factors on its moments, bias correction included."""

    step: float
    mean: float
    square: float


@dataclass(frozen=True)
class Carry:
    """What an optimizer's state is multiplied by; what it has none of stays 1.

    Attributes:
        buffer: of a momentum buffer.
        vector_buffer: of that of a tensor with fewer than two dimensions.
        mean: of a first moment, bias correction aside.
        square: of a second moment, bias correction aside, RMSprop's average and Adagrad's sum of squares.
        betas: Adam's, before and after; moments without a counter need none.
        why: what the factor on the squares takes for granted.
    """

    buffer: float = 1.0
    vector_buffer: float = 1.0
    mean: float = 1.0
    square: float = 1.0
    betas: tuple[Betas, Betas] = ((0.0, 0.0), (0.0, 0.0))
    why: str = ""

    def counted(self, step: float) -> Counted:
        """Of moments that have seen `step` steps; those of none (GradScaler may skip the first) are 0 and stay."""
        if step == 0.0:
            return Counted(0.0, 1.0, 1.0)
        (mean, square), (new_mean, new_square) = self.betas
        new_step = same_correction(step, square, new_square)
        return Counted(
            new_step,
            self.mean * _correction(new_mean, new_step) / _correction(mean, step),
            self.square * _correction(new_square, new_step) / _correction(square, step),
        )


def carried(before: Recipe, after: Recipe, *, facts: Facts | None = None, examples: int | None = None) -> Carry:
    """What the state of a run by `before` is multiplied by, to go on by `after`.

    The noise scale in `facts` is that of the moment, not of the run; `examples` is the size N of the training set:
    drawn without replacement, a batch of N has no noise.

    Raises:
        RequestError: the optimizers differ, or how their buffers are filled.

    >>> from rebatch.recipe import Epochs
    >>> before = Recipe(batch_size=64, optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99)), budget=Epochs(10))
    >>> after = before.replace(batch_size=256, optimizer=AdamW(lr=2e-3, betas=(0.9, 0.99**4)))
    >>> carried(before, after).square, carried(before, after, facts=Facts(noise_scale=64)).square
    (0.25, 0.625)
    >>> round(carried(before, after).counted(1000).step, 9)
    250.0
    """
    require_recipe(before, "before")
    require_recipe(after, "after")
    require_facts(facts)
    grown, gain = _gradient_scale(after) / _gradient_scale(before), _gain(before, after, facts, examples)
    kappa, why = after.batch_size / before.batch_size, _why(facts)
    match before.optimizer, after.optimizer:
        case Sgd() as old, Sgd() as new if old.lr_in_buffer == new.lr_in_buffer:
            rate = new.lr / old.lr if old.lr_in_buffer else 1.0
            return _of_buffers(grown * rate * _buffer(old.momentum, new.momentum))
        case AdamW() as old, AdamW() as new:
            return Carry(mean=grown, square=grown**2 / gain, betas=(old.betas, new.betas), why=why)
        case RmsProp() as old, RmsProp() as new:
            buffers = _of_buffers(math.sqrt(gain) * _buffer(old.momentum, new.momentum))
            return replace(buffers, square=grown**2 / gain, why=why)
        case Adagrad(), Adagrad():
            return Carry(square=grown**2 / (kappa * gain), why=why)
        case Lion(), Lion():
            return Carry(mean=grown)
        case Lamb(), Lamb():
            return Carry(mean=grown, square=grown**2 / gain, why=why)
        case Lars() as old, Lars() as new:
            alike = _buffer(old.momentum, new.momentum)
            return Carry(buffer=math.sqrt(gain) * alike, vector_buffer=grown * alike, why=why)
        case Muon() as old, Muon() as new:
            moments = Carry(mean=grown, square=grown**2 / gain, betas=(old.betas, new.betas), why=why)
            return replace(moments, buffer=grown)
        case _:
            raise RequestError(
                f"a state of optimizer {_kind(before)!r} cannot go on as one of {_kind(after)!r}: start the new "
                "optimizer without a state"
            )


def same_correction(step: float, decay: float, new_decay: float) -> float:
    """The count of steps t' with new_decay^t' = decay^t: as much weight in the average as before.

    A decay of 0 has all its weight after one step, and no count to move.

    >>> same_correction(100, 0.5, 0.5**4)
    25.0
    """
    if decay == 0.0 or new_decay == 0.0:
        return step
    return step * (math.log(decay) / math.log(new_decay))


def _correction(decay: float, step: float) -> float:
    """1 - decay^step, also where step is small."""
    return 1.0 if decay == 0.0 else -math.expm1(step * math.log(decay))


def _gradient_scale(recipe: Recipe) -> float:
    """A step's gradient in units of the mean over its examples."""
    return recipe.batch_size if recipe.loss_reduction == "sum" else 1.0


def _gain(before: Recipe, after: Recipe, facts: Facts | None, examples: int | None) -> float:
    """What the squares of a gradient of the same scale fall by."""
    move = Move(before, after.batch_size, examples)
    noise = None if facts is None else facts.noise
    return move.kappa if noise is None or math.isinf(noise.estimate) else move.gain(noise.estimate)


def _why(facts: Facts | None) -> str:
    if facts is None or facts.noise is None:
        return "no noise scale is given: squares of the gradient fall by kappa, as where noise dominates"
    return f"squares of the gradient go as 1 + {facts.noise.estimate:g} / batch size, its noise scale"


def _of_buffers(factor: float) -> Carry:
    """One factor on all of them."""
    return Carry(buffer=factor, vector_buffer=factor)


def _buffer(momentum: float, new_momentum: float) -> float:
    return (1.0 - momentum) / (1.0 - new_momentum)


def _kind(recipe: Recipe) -> str:
    tag = str(recipe.optimizer.__struct_config__.tag)
    in_buffer = isinstance(recipe.optimizer, Sgd) and recipe.optimizer.lr_in_buffer
    return f"{tag}, lr_in_buffer" if in_buffer else tag
