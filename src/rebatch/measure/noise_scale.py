"""How noisy is the gradient, beside its length? tr(Sigma)/|G|^2, from what a step computes anyway.

Pieces of a step's gradient are at hand wherever it is accumulated over micro-batches or averaged over ranks. Where it
is not, a small part of the batch is shown to the model once more, now and then (`measure/splitting.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rebatch.errors import RequestError
from rebatch.fields import require_choice, typed
from rebatch.measure.preconditioner import adam_denominator
from rebatch.measure.splitting import Split
from rebatch.nn.ghost_batch_norm import plain_batch_norms
from rebatch.noise_scale import NoiseScaleEstimate, estimate_noise_scale, spread, trace_and_square
from rebatch.observation import Call, Observation, Observer, trainable

__all__ = ["NoiseScale", "NoiseScaleEstimate", "estimate_noise_scale"]

Norm = Literal["euclidean", "adam"]


class NoiseScaleError(RequestError):
    """The model, or the way it is trained, has no noise scale; raised in the first step, before the weights move."""


# Where the model draws at random (dropout), the whole batch is shown again instead of a part: so many times rarer.
RARER = 8


class NoiseScale(Observer):
    """Estimates tr(Sigma), |G|^2 and their ratio, over the last steps and per parameter group.

    Pieces come from micro-batches, from ranks, or, where a step is one piece, from a part of the batch that is shown
    to the model again at every `split_every`-th step. All three are unbiased for independent examples.

    Args:
        window: how many measured steps an estimate stands on. The noise scale drifts while a run goes on.
        examples: size of the training set, to speak about the loss on these very examples instead of fresh ones.
        split_every: see above. What it costs is about `split_share / split_every` of a step.
        split_share: the part of the batch that is shown again.
        norm: "euclidean" is SGD's. "adam" divides by Adam's own sqrt(v) + eps, v taken before the step: the ratio is
            tr(P Sigma)/G'PG with P = 1/(sqrt(v) + eps), right where curvature is about 1/P.
        allow_batch_norm: accept plain batch norm over micro-batches or ranks, whose noise scale is that of a loss
            normalized in pieces of that very size.
    """

    sees_micro_batches = True

    def __init__(
        self,
        *,
        window: int = 400,
        examples: int | None = None,
        split_every: int = 4,
        split_share: float = 1 / 8,
        norm: Norm = "euclidean",
        allow_batch_norm: bool = False,
    ) -> None:
        require_choice("norm", norm, Norm)
        if window < 2 or split_every < 1 or not 0.0 < split_share <= 0.5:
            raise RequestError(
                "NoiseScale needs window >= 2, split_every >= 1 and split_share in (0, 0.5], "
                f"got {window}, {split_every} and {split_share}"
            )
        self._window, self._examples, self._norm = window, typed(examples, int | None, "examples"), norm
        if self._examples is not None and self._examples < 1:
            raise RequestError(f"examples must be at least 1, got {examples}; leave it out to speak about fresh ones")
        self._split_every, self._share, self._allow = split_every, split_share, allow_batch_norm

    def start(self, model: nn.Module) -> None:
        """Forget what was measured."""
        self._model, self._parameters = model, trainable(model)
        self._splits = True  # until a step shows several pieces
        self._every, self._room = self._split_every, self._window
        self._lengths: dict[int, Tensor | None] = {}
        self._sums = torch.zeros(())
        self._optimizer: Optimizer | None = None
        self._groups: Tensor | None = None
        self._grouped = 0
        self._found: Tensor | None = None
        self._steps = self._kept = self._split_steps = 0
        self._clear()

    @property
    def sees_calls(self) -> bool:
        """Where the batch may have to be split."""
        return self._splits and self._steps % self._every == 0

    def call(self, call: Call) -> None:
        """Remember what repeats it."""
        self._split.call(call)

    def gradient(self, position: int, gradient: Tensor) -> None:
        """Only its length."""
        if position in self._lengths:
            raise RequestError(
                "a parameter was given two gradients in one micro-batch, so pieces cannot be told apart; call "
                "backward() once for each call of the model, on the sum of the losses"
            )
        self._lengths[position] = self._length(position, gradient)

    def micro_batch(self, examples: int) -> None:
        """Add up squared lengths."""
        squares = self._squares(self._lengths)
        if squares is not None:
            self._sums = self._sums + torch.stack([squares, squares / examples])
        self._sizes.append(examples)
        self._lengths.clear()
        if len(self._sizes) > 1:
            self._split.forget()

    def step(self, observation: Observation) -> None:
        """tr(Sigma) and |G|^2 of this step, kept on the device."""
        if self._examples is not None and observation.examples > self._examples:
            raise RequestError(
                f"a step has {observation.examples} examples, and NoiseScale(examples={self._examples}) says that the "
                "whole training set has fewer; give its size, or leave it out to speak about fresh examples"
            )
        if self._steps == 0:
            self._refuse_batch_norm(observation)
        moments = self._moments(observation)
        self._optimizer = observation.optimizer if self._norm == "adam" else None
        if moments is not None:
            sound = observation.consistent
            moments = moments if sound is None else torch.where(sound, moments, torch.nan)
            self._keep(moments / observation.gradient_scale**2)
        self._steps += 1
        self._clear()

    def estimate(self, group: int | None = None) -> NoiseScaleEstimate | None:
        """Over the window; of one parameter group of the optimizer, or of all. None before two steps were measured."""
        if self._found is None:
            return None
        order = torch.arange(self._kept - min(self._kept, self._room), self._kept) % self._room
        found = self._found.cpu()[order]
        chosen = found.sum(dim=1) if group is None else found[:, group]
        finite = chosen[torch.isfinite(found).all(dim=2).all(dim=1)].numpy()
        if len(finite) < 2:
            return None
        return estimate_noise_scale(finite[:, 0], finite[:, 1], examples=self._examples)

    def summary(self, model: nn.Module) -> Mapping[str, NoiseScaleEstimate]:
        """The estimate over all weights, and those of the parameter groups where there are several."""
        groups: Sequence[int | None] = [None]
        if self._found is not None and self._found.shape[1] > 1:
            groups = [None, *range(self._found.shape[1])]
        named = {_name(self._norm, group): self.estimate(group) for group in groups}
        return {name: found for name, found in named.items() if found is not None}

    def row(self, model: nn.Module) -> Mapping[str, float]:
        """The estimate and what it is the ratio of; nothing before there is one."""
        found = self.estimate()
        if found is None:
            return {}
        named = {"noise_scale": found.estimate, "trace": found.trace.estimate, "square": found.square.estimate}
        prefix = "" if self._norm == "euclidean" else f"{self._norm}_"
        return {f"{prefix}{name}": value for name, value in named.items() if math.isfinite(value)}

    def state_dict(self) -> dict[str, Any]:
        """What was measured in the window."""
        found = None if self._found is None else self._found.clone()
        counts = {"steps": self._steps, "kept": self._kept, "split_steps": self._split_steps}
        return {"found": found, **counts, "splits": self._splits, "every": self._every, "room": self._room}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        if state["room"] not in (self._window, max(2, self._window // RARER)):
            raise RequestError(f"the saved window holds {state['room']} steps, and this one {self._window}; keep it")
        self._found = None if state["found"] is None else state["found"].clone()
        self._steps, self._kept, self._split_steps = state["steps"], state["kept"], state["split_steps"]
        self._splits, self._every, self._room = state["splits"], state["every"], state["room"]

    def _clear(self) -> None:
        self._split = Split(self._model, self._parameters)
        self._sizes: list[int] = []
        self._lengths.clear()
        self._sums = torch.zeros(())

    def _moments(self, observation: Observation) -> Tensor | None:
        """tr(Sigma) and |G|^2 of each group, (groups, 2), as many times too large as the gradient is, squared."""
        alone = observation.world.size == 1 and len(self._sizes) <= 1
        self._splits = alone
        if alone:
            return self._of_split(observation) if self._split.is_ready else None
        return self._of_pieces(observation)

    def _of_pieces(self, observation: Observation) -> Tensor | None:
        batch = self._gradient_squares()
        if batch is None:  # on every rank alike
            return None
        if not self._sizes:  # nothing was left for this rank
            self._sums = batch.new_zeros(2, len(batch))
        sums = torch.stack([self._per_group(row, observation.optimizer) for row in self._sums])
        counts = [len(self._sizes), sum(self._sizes), sum(1.0 / size for size in self._sizes)]
        # One exchange of a few numbers: sums of squares by group, pieces, examples, sum of 1/m.
        local = torch.cat([sums.flatten(), sums.new_tensor(counts)])
        shared = observation.world.sum(local)
        pieces, examples, inverse = shared[-3:]
        plain, by_examples = shared[:-3].view_as(sums) / observation.world.size**2
        if observation.equal_weights:
            weighted, p, q = pieces * plain, inverse / pieces, inverse / pieces**2
        else:
            weighted, p, q = examples * by_examples, pieces / examples, 1.0 / examples
        return torch.stack(trace_and_square(weighted, self._per_group(batch, observation.optimizer), p, q), dim=1)

    def _of_split(self, observation: Observation) -> Tensor | None:
        batch, part = self._gradient_squares(), self._split.part(observation.examples, self._share)
        if part is None and self._split_steps == 0:
            raise NoiseScaleError(
                f"a step of {observation.examples} examples cannot be split for its noise scale: they are one ghost, "
                "or layers have ghosts of several sizes; take a larger batch, or accumulate over micro-batches"
            )
        if batch is None or part is None:  # the last batch of an epoch may be that small
            return None
        if self._split_steps == 0:
            self._split.check(observation.examples)
            if self._split.drew:
                self._every, self._room = self._every * RARER, max(2, self._window // RARER)
        self._split_steps += 1
        difference = self._split.difference(part, observation.examples)
        squares = self._squares({place: self._length(place, each) for place, each in enumerate(difference)})
        if squares is None:
            return None
        share = part / observation.examples
        p, q = spread([part, observation.examples - part])
        groups, optimizer = self._per_group(batch, observation.optimizer), observation.optimizer
        scatter = self._per_group(squares, optimizer) / (share * (1.0 - share))
        return torch.stack(trace_and_square(groups + scatter, groups, p, q), dim=1)

    def _gradient_squares(self) -> Tensor | None:
        """|gbar|^2 of each parameter."""
        gradients = {place: each.grad for place, each in enumerate(self._parameters) if each.grad is not None}
        return self._squares({place: self._length(place, gradient) for place, gradient in gradients.items()})

    def _length(self, position: int, gradient: Tensor) -> Tensor | None:
        """In the norm asked for; None where that is not known yet."""
        if self._norm == "adam":
            denominator = (
                None if self._optimizer is None else adam_denominator(self._optimizer, self._parameters[position])
            )
            if denominator is None:
                return None
            gradient = gradient / denominator.sqrt()
        if gradient.is_sparse:
            gradient = gradient.coalesce().values()
        wide = torch.promote_types(gradient.dtype, torch.float32)
        length: Tensor = torch.linalg.vector_norm(gradient, dtype=wide)
        return length

    def _squares(self, lengths: Mapping[int, Tensor | None]) -> Tensor | None:
        """Squared lengths by parameter, 0 where there is no gradient; None where none is known."""
        device = self._parameters[0].device
        zero = torch.zeros((), device=device)
        # Weights that the optimizer does not divide (yet) are left out.
        if all(length is None for length in lengths.values()):
            return None
        known = [lengths.get(place) for place in range(len(self._parameters))]
        wide = torch.float32 if device.type == "mps" else torch.float64
        return torch.stack([(zero if length is None else length).to(device, wide) for length in known]).square()

    def _per_group(self, by_parameter: Tensor, optimizer: Optimizer | None) -> Tensor:
        """Sums over the optimizer's parameter groups, (groups,); weights that it does not move are left out."""
        if optimizer is None:
            return by_parameter.sum(dim=0, keepdim=True)
        if self._groups is None or self._grouped != len(optimizer.param_groups):
            self._grouped = len(optimizer.param_groups)
            group_of = {id(each): at for at, group in enumerate(optimizer.param_groups) for each in group["params"]}
            places = [group_of.get(id(each), len(optimizer.param_groups)) for each in self._parameters]
            self._groups = torch.tensor(places, device=by_parameter.device)
        count = len(optimizer.param_groups)
        return by_parameter.new_zeros(count + 1).index_add(0, self._groups, by_parameter)[:count]

    def _keep(self, moments: Tensor) -> None:
        if self._found is None or self._found.shape[1:] != moments.shape:  # the optimizer has another group now
            self._found, self._kept = moments.new_zeros(self._room, *moments.shape), 0
        self._found = self._found.to(moments.device)
        self._found[self._kept % self._room] = moments
        self._kept += 1

    def _refuse_batch_norm(self, observation: Observation) -> None:
        plain = [name for name, layer in plain_batch_norms(self._model).items() if layer.training]
        several = observation.world.size > 1 or len(self._sizes) > 1
        if plain and not (several and self._allow):
            raise NoiseScaleError(
                f"batch norm ({plain[0]}) couples the examples of a batch, so its gradient is not the mean of "
                "theirs and has no noise scale; ghost_batch_size in the recipe, or convert_ghost_batch_norm(model, "
                "ghost_batch_size), makes it one"
                + (", or NoiseScale(allow_batch_norm=True) measures the loss normalized in these pieces" * several)
            )


def _name(norm: Norm, group: int | None) -> str:
    name = "noise_scale" if norm == "euclidean" else f"{norm}_noise_scale"
    return name if group is None else f"{name}/group {group}"
