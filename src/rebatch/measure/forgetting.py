"""How soon does training erase what it has just learned? The last batches' losses again, under the final weights.

Page ("How to train your ResNet 2: mini-batches", 2018) freezes a model and shows it the batches of its last epochs
again: the same examples, augmented as they were, in the same order. Where the learning rate is high, a batch of half an
epoch ago is no better known than a test example, and more data would be wasted on such a run. Where it is low, every
batch of the last epoch is still known.
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rebatch.interval import Interval
from rebatch.observation import Observation, Observer

Array = NDArray[np.float64]

# An epoch later an example is met again, so the curve's decay is read within the last epoch only.
WITHIN = 1.0
# Fewer batches than this say nothing of a decay.
LEAST_BATCHES = 8
# Reached is the limit where this share of the way from the newest batch's loss has been covered.
COVERED = 0.9


@dataclass(frozen=True, eq=False)
class Replay:
    """Losses of past batches under the weights of now, the oldest first.

    Attributes:
        ages: epochs of examples that the run saw after the batch, shape (T,); 0 for the newest.
        losses: mean loss per example under the final weights, shape (T,).
        online: mean loss per example when the batch was trained on, before its own step, shape (T,).
    """

    ages: Array
    losses: Array
    online: Array

    def binned(self, edges: Array) -> Array:
        """Mean loss of the batches whose age lies in [edges[i], edges[i + 1]), nan where there is none."""
        places = np.digitize(self.ages, edges) - 1
        chosen = [self.losses[places == place] for place in range(len(edges) - 1)]
        return np.array([part.mean() if len(part) else math.nan for part in chosen])


@dataclass(frozen=True)
class Decay:
    """L(age) = limit - amplitude exp(-age / tau), fitted to a replay; `tau` in epochs, with its interval.

    `tau.high` is inf where the losses do not say that the curve ends; the interval is all of (0, inf) where it is flat.
    """

    limit: float
    amplitude: float
    tau: Interval

    @property
    def newest(self) -> float:
        """L(0): the loss of a batch just trained on."""
        return self.limit - self.amplitude

    def age_at(self, loss: float, share: float = COVERED) -> float:
        """The age at which L has covered `share` of the way from L(0) to `loss`: 0 where there is none, inf if never.

        >>> decay = Decay(limit=2.0, amplitude=1.0, tau=Interval(0.5, 0.4, 0.6))
        >>> round(decay.age_at(2.0), 3), decay.age_at(3.0)
        (1.151, inf)
        """
        way = share * (loss - self.newest)
        if way <= 0.0:
            return 0.0
        if way >= self.amplitude:
            return math.inf
        return -self.tau.estimate * math.log(1.0 - way / self.amplitude)


def fit_decay(ages: Array, losses: Array, *, within: float = WITHIN, level: float = 0.95) -> Decay:
    """Least squares of limit - amplitude exp(-age / tau) over batches younger than `within` epochs.

    For each tau limit and amplitude are linear (variable projection), so only tau is searched, on a logarithmic grid
    from the batches' spacing to 100 epochs. The interval holds every tau whose residuals an F test at `level` cannot
    tell from the best one's (Bates and Watts, 1988, section 6.1); batches' losses count as independent, since within
    an epoch their examples are different ones.

    Raises:
        ValueError: fewer than 8 batches are young enough.
    """
    from scipy.stats import f as f_distribution

    young = ages < within
    x, y = ages[young], losses[young]
    if len(x) < LEAST_BATCHES:
        limit = f"at least {LEAST_BATCHES} batches within {within:g} epochs"
        raise ValueError(f"a decay needs {limit}, got {len(x)}; keep more, or widen it")
    spacing = max((x.max() - x.min()) / len(x), 1e-6)
    taus = np.geomspace(spacing / 2.0, 100.0, 800)
    fits = [_linear(x, y, tau) for tau in taus]
    residuals = np.array([rss for _, _, rss in fits])
    best = int(residuals.argmin())
    level_off, amplitude, least = fits[best]
    freedom = len(x) - 3
    accepted = taus[residuals <= least * (1.0 + f_distribution.ppf(level, 1, freedom) / freedom)]
    low = 0.0 if accepted[0] == taus[0] else float(accepted[0])
    high = math.inf if accepted[-1] == taus[-1] else float(accepted[-1])
    return Decay(level_off, amplitude, Interval(float(taus[best]), low, high))


def _linear(x: Array, y: Array, tau: float) -> tuple[float, float, float]:
    """Limit, amplitude and sum of squared residuals at one tau; the amplitude is at least 0: nothing is unlearned."""
    shape = np.exp(-x / tau)
    centered = shape - shape.mean()
    scatter = float(centered @ centered)
    amplitude = max(0.0, -float(centered @ y) / scatter) if scatter > 0.0 else 0.0
    limit = float(y.mean() + amplitude * shape.mean())
    return limit, amplitude, float(((y - limit + amplitude * shape) ** 2).sum())


Batch = Callable[..., tuple[Tensor, Tensor]]
"""From what `saw` was given to the inputs and targets that the step was shown."""


class Forgetting(Observer):
    """Remembers how to rebuild the batches of the last epochs, and shows them to the model again.

    In a loop of your own, tell it in each step what rebuilds the batch (indices and draws: a few bytes an example)
    and the loss; ask after the last step:

        forgetting = Forgetting(examples=len(images), epochs=4)
        ...
            forgetting.saw(indices, offsets, loss=loss)
        ...
        replay = forgetting.replay(model, lambda indices, offsets: (crop(images[indices], offsets), labels[indices]))
        fit_decay(replay.ages, replay.losses).tau

    As an observer of `rebatch.train` it remembers the numbers of the steps, from which
    `rebatch.data.batches.past_batches` rebuilds them.

    Args:
        examples: size N of the training set; an age of 1 is N examples.
        epochs: how far back to remember.
    """

    def __init__(self, examples: int, *, epochs: float = 4.0) -> None:
        if examples < 1 or not epochs > 0.0:
            raise ValueError(f"examples must be at least 1 and epochs positive, got {examples} and {epochs}")
        self._examples, self._room = examples, epochs * examples
        self._kept: deque[_Seen] = deque()
        self._held = 0

    def saw(self, *key: Any, loss: Tensor | float, examples: int | None = None) -> None:
        """A step was shown the batch that `key` rebuilds; `loss` is its mean loss, before the step.

        `examples` is the batch's size; left out, it is the length of the first part of the key.
        """
        size = len(key[0]) if examples is None else examples
        self._kept.append(_Seen(key, size, loss.detach() if isinstance(loss, Tensor) else loss))
        self._held += size
        while self._held - self._kept[0].examples >= self._room:
            self._held -= self._kept.popleft().examples

    def step(self, observation: Observation) -> None:
        """Remember the step's number and its loss."""
        self.saw(observation.step, loss=observation.loss / observation.examples, examples=observation.examples)

    def replay(
        self,
        model: nn.Module,
        batch: Batch,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        *,
        training_mode: bool = False,
    ) -> Replay:
        """Mean losses of the remembered batches under the model's present weights; the model is left as it is.

        The post does not say how batch norm was replayed: by its running statistics (evaluation mode, as here), or by
        those of each batch, as in training (`training_mode`).
        """
        probe = copy.deepcopy(model).train(training_mode)
        with torch.no_grad():
            losses = [loss(probe(inputs), targets) for inputs, targets in (batch(*seen.key) for seen in self._kept)]
        sizes = np.array([seen.examples for seen in self._kept], dtype=np.float64)
        after = sizes.sum() - np.cumsum(sizes)
        online = [float(seen.loss) for seen in self._kept]
        return Replay(after / self._examples, np.array([float(each) for each in losses]), np.array(online))

    def state_dict(self) -> dict[str, Any]:
        """The remembered steps of a run that is to be resumed."""
        return {"kept": [(seen.key, seen.examples, float(seen.loss)) for seen in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self._kept = deque(_Seen(tuple(key), examples, loss) for key, examples, loss in state["kept"])
        self._held = sum(seen.examples for seen in self._kept)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A batch that was trained on: what rebuilds it, how many examples it had, its mean loss (maybe on the device)."""

    key: tuple[Any, ...]
    examples: int
    loss: Tensor | float
