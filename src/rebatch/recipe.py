"""The numbers that define an optimization: frozen data, valid from birth, with no seed, device or path in it."""

import math
from itertools import pairwise
from typing import Any, Literal, Self

import msgspec

from rebatch.averaging import Averaging
from rebatch.errors import RequestError
from rebatch.fields import require_types, show_given, show_value
from rebatch.schedule import ROUNDING, Constant, Feedback, Schedule

LastBatch = Literal["keep", "drop"]
LossReduction = Literal["mean", "sum"]
GhostRunning = Literal["sequential", "mean", "scaled", "printed"]
ClipMode = Literal["clip", "normalize"]


def _require(holds: bool, field: str, limit: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{field} must be {limit}, got {show_value(value)}")


def _require_lr(lr: float) -> None:
    _require(lr > 0 and math.isfinite(lr), "optimizer.lr", "a positive finite number", lr)


def _require_decay(weight_decay: float) -> None:
    holds = weight_decay >= 0 and math.isfinite(weight_decay)
    _require(holds, "optimizer.weight_decay", "at least 0 and finite", weight_decay)


def _require_momentum(momentum: float, *, nesterov: bool) -> None:
    _require(0 <= momentum < 1, "optimizer.momentum", "0 <= momentum < 1", momentum)
    _require(not nesterov or momentum > 0, "optimizer.nesterov", "false where momentum is 0", nesterov)


def _require_betas(betas: tuple[float, float]) -> None:
    for beta in betas:
        _require(0 <= beta < 1, "optimizer.betas", "two numbers, 0 <= beta < 1", list(betas))


class _Optimizer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """How optimizers are written in a recipe file; the numbers keep torch's names."""

    def __post_init__(self) -> None:
        require_types(self, "optimizer")


class Sgd(_Optimizer, frozen=True, tag="sgd"):
    """Stochastic gradient descent as in `torch.optim.SGD`: weight decay is coupled (added to the gradient).

    Attributes:
        weight_decay_until: fraction of the budget after which the weight decay is 0 (1: never).
        lr_in_buffer: the momentum buffer sums steps, learning rate included, as in Page's (2018) code, and not
            gradients as in torch: an old gradient keeps the rate that it came with. At a constant rate both are one
            rule; while the rate falls the steps are longer, while it rises shorter.
        norm_bias_lr_factor: the learning rate of batch norm's biases is so many times `lr`, and their weight decay so
            many times smaller, so that a step decays them as it does all others (airbench: 64; Jordan, 2024).
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    weight_decay_until: float = 1.0
    lr_in_buffer: bool = False
    norm_bias_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_momentum(self.momentum, nesterov=self.nesterov)
        _require_decay(self.weight_decay)
        until = self.weight_decay_until
        _require(0 < until <= 1, "optimizer.weight_decay_until", "a fraction of the budget, over 0 to 1", until)
        in_buffer, factor = self.lr_in_buffer, self.norm_bias_lr_factor
        _require(not in_buffer or self.momentum > 0, "optimizer.lr_in_buffer", "false where momentum is 0", in_buffer)
        holds = factor > 0 and math.isfinite(factor)
        _require(holds, "optimizer.norm_bias_lr_factor", "a positive finite number", factor)


class AdamW(_Optimizer, frozen=True, tag="adamw"):
    """Adam with decoupled weight decay as in `torch.optim.AdamW` (Loshchilov and Hutter, 2019)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_betas(self.betas)
        _require(self.eps >= 0 and math.isfinite(self.eps), "optimizer.eps", "at least 0 and finite", self.eps)
        _require_decay(self.weight_decay)


class RmsProp(_Optimizer, frozen=True, tag="rmsprop"):
    """RMSprop as in `torch.optim.RMSprop` (Tieleman and Hinton, 2012); weight decay is coupled."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require(0 <= self.alpha < 1, "optimizer.alpha", "0 <= alpha < 1", self.alpha)
        _require(self.eps > 0 and math.isfinite(self.eps), "optimizer.eps", "positive and finite", self.eps)
        _require(0 <= self.momentum < 1, "optimizer.momentum", "0 <= momentum < 1", self.momentum)
        _require_decay(self.weight_decay)


class Adagrad(_Optimizer, frozen=True, tag="adagrad"):
    """Adagrad as in `torch.optim.Adagrad` (Duchi, Hazan and Singer, 2011); weight decay is coupled."""

    lr: float
    eps: float = 1e-10
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require(self.eps > 0 and math.isfinite(self.eps), "optimizer.eps", "positive and finite", self.eps)
        _require_decay(self.weight_decay)


class Lion(_Optimizer, frozen=True, tag="lion"):
    """Lion (Chen et al., 2023, arXiv 2302.06675): the sign of averaged gradients; weight decay is decoupled."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_betas(self.betas)
        _require_decay(self.weight_decay)


class Lars(_Optimizer, frozen=True, tag="lars"):
    """LARS (You et al., 2017, arXiv 1708.03888): SGD with momentum, each layer's step in proportion to its weights.

    Weight decay is coupled. Biases and other vectors take SGD's steps, without decay.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    trust_coefficient: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_momentum(self.momentum, nesterov=self.nesterov)
        _require_decay(self.weight_decay)
        holds = self.trust_coefficient > 0 and math.isfinite(self.trust_coefficient)
        _require(holds, "optimizer.trust_coefficient", "positive and finite", self.trust_coefficient)


class Lamb(_Optimizer, frozen=True, tag="lamb"):
    """LAMB (You et al., 2019, arXiv 1904.00962): Adam's steps, each layer's in proportion to its weights.

    Weight decay is decoupled, and no part of what is put in proportion; there is no bias correction.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_betas(self.betas)
        _require(self.eps > 0 and math.isfinite(self.eps), "optimizer.eps", "positive and finite", self.eps)
        _require_decay(self.weight_decay)


class Muon(_Optimizer, frozen=True, tag="muon"):
    """Muon (Jordan, 2024) as in `torch.optim.Muon`, for matrices between the layers; the other weights have AdamW.

    Steps are as long as AdamW's (Liu et al., 2025, arXiv 2502.16982), so that both parts can share their numbers.

    Attributes:
        adamw_lr_factor: the learning rate of AdamW's part is so many times `lr`, and its weight decay so many times
            smaller, so that a step decays all weights alike.
        betas, eps: of AdamW's part.
    """

    lr: float
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    adamw_lr_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require_momentum(self.momentum, nesterov=self.nesterov)
        _require_decay(self.weight_decay)
        holds = self.adamw_lr_factor > 0 and math.isfinite(self.adamw_lr_factor)
        _require(holds, "optimizer.adamw_lr_factor", "a positive finite number", self.adamw_lr_factor)
        _require_betas(self.betas)
        _require(self.eps >= 0 and math.isfinite(self.eps), "optimizer.eps", "at least 0 and finite", self.eps)


Optimizer = Sgd | AdamW | RmsProp | Adagrad | Lion | Lars | Lamb | Muon


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Noise that is added on purpose, fresh in every step.

    Attributes:
        multiplicative: sigma of the factor z ~ N(1, sigma^2) on each example's loss. Hoffer et al. (2017): with
            sigma^2 = kappa - 1 a large batch at the small batch's learning rate has the small batch's covariance of a
            weight increment and its mean too (see `rules.matching_noise`).
        labels: probability that an example's label is replaced by one drawn evenly from all classes.
        dropout: probability that an input of a linear or 2d convolution layer, the first excepted, is zeroed.
        dropconnect: probability that a weight of such a layer is zeroed for a step (Wan et al., 2013).
    """

    multiplicative: float = 0.0
    labels: float = 0.0
    dropout: float = 0.0
    dropconnect: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "noise")
        sigma = self.multiplicative
        _require(sigma >= 0 and math.isfinite(sigma), "noise.multiplicative", "at least 0 and finite", sigma)
        for name in ("labels", "dropout", "dropconnect"):
            _require(
                0 <= getattr(self, name) < 1, f"noise.{name}", f"a probability, 0 <= {name} < 1", getattr(self, name)
            )


class GradientPenalty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A penalty on gradients of pieces of a batch: the loss grows by `strength` times the mean of their |g|^2.

    g is the gradient of a piece's mean loss; a piece weighs as many examples as it has. E|g|^2 is |G|^2 plus tr(Sigma)
    over the size of a piece: in pieces of a small batch's size a large batch sees that batch's noise (Geiping et al.,
    2021, arXiv 2109.14119; Novack et al., 2022, arXiv 2211.15853). SGD at rate lr goes down its own loss with a penalty
    of strength lr / 4 on its own batches (Smith et al., 2021, arXiv 2101.12176).

    Attributes:
        strength: in units of a learning rate; at 0 a run is the plain one, bit for bit.
        batch_size: examples of a piece: whole ghosts, where there are any.
    """

    strength: float
    batch_size: int

    def __post_init__(self) -> None:
        require_types(self, "gradient_penalty")
        holds = self.strength >= 0 and math.isfinite(self.strength)
        _require(holds, "gradient_penalty.strength", "at least 0 and finite", self.strength)
        _require(self.batch_size >= 1, "gradient_penalty.batch_size", "at least 1", self.batch_size)


class Defects(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the released code of Hoffer et al. (2017) does otherwise than their paper, to be repeated on purpose.

    Attributes:
        reset_momentum_epochs: the optimizer's state is thrown away at the start of every so many-th epoch (the
            authors' code builds the optimizer anew in each: 1); None keeps it.
        ghost_split: "size" cuts ghosts of `ghost_batch_size`; "chunks" cuts every batch, a partial last one too, into
            as many ghosts as a full one has and lets each ghost weigh the same, however few examples it holds. Where
            `ghost_batch_size` is left out there are no ghosts, and it has no effect.
        batch_norm_scale: batch norm's scale starts at "ones", or "uniform": drawn from U(0, 1), torch's default then
            (the authors' residual nets set ones themselves, their other nets do not).
    """

    reset_momentum_epochs: int | None = None
    ghost_split: Literal["size", "chunks"] = "size"
    batch_norm_scale: Literal["ones", "uniform"] = "ones"

    def __post_init__(self) -> None:
        require_types(self, "defects")
        every = self.reset_momentum_epochs
        _require(every is None or every >= 1, "defects.reset_momentum_epochs", "at least 1", every)


BIGBATCH = Defects(reset_momentum_epochs=1, ghost_split="chunks", batch_norm_scale="uniform")
"""All of them, as the authors' code (GitHub eladhoffer/bigBatch, May 2017) has them for nets without residuals."""


class Epochs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="epochs"):
    """A budget in passes over the training set; fractions are allowed."""

    epochs: float

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.epochs > 0 and math.isfinite(self.epochs), "budget.epochs", "positive and finite", self.epochs)


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="steps"):
    """A budget in optimizer updates."""

    steps: int

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.steps >= 1, "budget.steps", "at least 1", self.steps)


class Examples(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="examples"):
    """A budget in training examples, repeats counted."""

    examples: int

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.examples >= 1, "budget.examples", "at least 1", self.examples)


Budget = Epochs | Steps | Examples


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that defines an optimization except seed, device and data.

    `max_grad_norm` bounds the norm of the gradient, in the first `clip_steps` steps or, left out, in all; with
    `clip_mode` "normalize" the gradient is scaled to that norm also where it is smaller. `ghost_running` says how
    ghosts' statistics enter the running ones (see `nn.GhostBatchNorm1d`); left out, it is "sequential", or what a
    model that brings its own ghosts has. `label_smoothing` moves so much of each label's probability evenly to all
    classes, in the gradient alone: every loss that is written down is the plain one. `averaging` averages weights over
    steps. `batch_schedule` lets the batch size change along the run: pairs (progress, factor), from where on they are
    `factor` times `batch_size`, up to whole examples; progress is then the part of the budget's examples that was seen.
    `gradient_penalty` is part of what goes down and, as weight decay, no part of any loss or gradient that is measured.
    `tuned` is the recipe that this one was transferred from, `None` for a recipe that somebody tuned: a further
    transfer starts there. Delete it after tuning a transferred recipe by hand.

    >>> recipe = Recipe(batch_size=128, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(50))
    >>> recipe.with_lr(0.4).optimizer.lr
    0.4
    """

    batch_size: int
    optimizer: Optimizer
    budget: Budget
    schedule: Schedule = Constant()
    ghost_batch_size: int | None = None
    ghost_running: GhostRunning | None = None
    max_grad_norm: float | None = None
    clip_steps: int | None = None
    clip_mode: ClipMode = "clip"
    label_smoothing: float = 0.0
    averaging: Averaging | None = None
    batch_schedule: tuple[tuple[float, float], ...] = ()
    noise: Noise = Noise()
    gradient_penalty: GradientPenalty | None = None
    defects: Defects = Defects()
    last_batch: LastBatch = "keep"
    loss_reduction: LossReduction = "mean"
    tuned: "Recipe | None" = None

    def __post_init__(self) -> None:
        require_types(self, "")
        _require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        self._check_batch_schedule()
        if self.ghost_batch_size is not None:
            smallest = min(self.batch_sizes)
            limit = f"between 2 and batch_size {smallest}"
            _require(2 <= self.ghost_batch_size <= smallest, "ghost_batch_size", limit, self.ghost_batch_size)
        if self.max_grad_norm is not None:
            holds = self.max_grad_norm > 0 and math.isfinite(self.max_grad_norm)
            _require(holds, "max_grad_norm", "positive and finite (leave it out for none)", self.max_grad_norm)
        self._check_clipping()
        self._check_penalty()
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", "a probability, 0 <= label_smoothing < 1", smoothing)
        _require(self.tuned is None or self.tuned.tuned is None, "tuned.tuned", "left out", "a recipe")

    @property
    def piece_size(self) -> int | None:
        """Examples of a piece whose gradient is penalized; None where none is."""
        penalty = self.gradient_penalty
        return None if penalty is None or penalty.strength == 0 else penalty.batch_size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes of the run, in their order."""
        return (self.batch_size, *(round(self.batch_size * factor) for _, factor in self.batch_schedule))

    def batch_size_at(self, progress: float) -> int:
        """The batch size at `progress`, a fraction of the budget.

        >>> grows = Recipe(batch_size=8, optimizer=Sgd(lr=0.1), budget=Epochs(4), batch_schedule=((0.5, 4.0),))
        >>> grows.batch_size_at(0.49), grows.batch_size_at(0.5)
        (8, 32)
        """
        passed = sum(progress + ROUNDING >= start for start, _ in self.batch_schedule)
        return self.batch_sizes[passed]

    def _check_batch_schedule(self) -> None:
        if not self.batch_schedule:
            return
        starts = [start for start, _ in self.batch_schedule]
        rising = all(0 < start < 1 for start in starts) and all(a < b for a, b in pairwise(starts))
        _require(rising, "batch_schedule", "pairs [progress, factor], progress over 0, under 1 and rising", starts)
        factors = [factor for _, factor in self.batch_schedule]
        _require(all(0 < f < math.inf for f in factors), "batch_schedule", "of positive finite factors", factors)
        _require(min(self.batch_sizes) >= 1, "batch_schedule", "of batches of 1 or more", list(self.batch_sizes))
        _require(
            not isinstance(self.budget, Steps),
            "batch_schedule",
            "with a budget in epochs or examples (steps are no measure of progress where their size changes)",
            "steps",
        )
        listens = isinstance(self.schedule, Feedback)
        _require(not listens, "batch_schedule", "with a schedule that is a function of progress", "one that listens")
        chunks = self.defects.ghost_split == "chunks" and self.ghost_batch_size is not None
        _require(not chunks, "batch_schedule", 'without defects.ghost_split = "chunks"', "both")

    def _check_penalty(self) -> None:
        if self.gradient_penalty is None:
            return
        size, smallest, ghost = self.gradient_penalty.batch_size, min(self.batch_sizes), self.ghost_batch_size or 1
        _require(size <= smallest, "gradient_penalty.batch_size", f"at most batch_size {smallest}", size)
        limit = f"a multiple of ghost_batch_size {ghost} (a piece holds whole ghosts)"
        _require(size % ghost == 0, "gradient_penalty.batch_size", limit, size)

    def _check_clipping(self) -> None:
        if self.max_grad_norm is None:
            for name, default in (("clip_steps", None), ("clip_mode", "clip")):
                value = getattr(self, name)
                _require(value == default, name, "left out where max_grad_norm is", value)
        _require(self.clip_steps is None or self.clip_steps >= 1, "clip_steps", "at least 1", self.clip_steps)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return msgspec.structs.replace(self, **changes)

    def with_lr(self, lr: float) -> Self:
        """A copy with another base learning rate."""
        return self.replace(optimizer=msgspec.structs.replace(self.optimizer, lr=lr))

    def as_tuned(self) -> Self:
        """The same numbers without the memory of where they came from."""
        return self.replace(tuned=None)


def require_recipe(recipe: object, name: str = "recipe") -> None:
    """`recipe` is one, and not what holds one, such as a `Transfer`.

    Raises:
        RequestError: it is not.
    """
    if isinstance(recipe, Recipe):
        return
    holds_one = isinstance(getattr(recipe, "recipe", None), Recipe)
    way_out = "take its .recipe" if holds_one else "write Recipe(...), or read one (recipe_of, read_recipe)"
    raise RequestError(f"{name} must be a Recipe, got {show_given(recipe)}; {way_out}")
