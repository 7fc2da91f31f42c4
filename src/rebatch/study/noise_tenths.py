"""What a study keeps of the noise scale along a run: tr(Sigma) and |G|^2 of each tenth of it.

Kept apart, because a noise scale over a longer part of a run, or over several seeds, is a ratio of means.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rebatch.batching import total_steps
from rebatch.data.sets import Splits
from rebatch.measure.noise_scale import NoiseScale
from rebatch.observation import Call, Observation, Observer
from rebatch.study.carried_rates import TENTHS
from rebatch.study.plan import RunSpec

# Measured steps in a tenth, and the part of a batch that is shown again.
MEASURED, SHARE = 20, 1 / 4


class NoiseTenths(Observer):
    """`noise_trace@0.3` and `noise_square@0.3`: means over the third tenth of the steps, nan where fewer than two."""

    sees_micro_batches = True

    def __init__(self, spec: RunSpec, data: Splits) -> None:
        total = total_steps(spec.recipe, len(data.train))
        self._ends = {math.ceil(total * tenth / TENTHS): tenth for tenth in range(1, TENTHS + 1)}
        self._every = max(1, total // (TENTHS * MEASURED))
        self._seen = 0
        self.found: dict[str, float] = {}

    @property
    def sees_calls(self) -> bool:
        """Where the batch is split."""
        return self._noise.sees_calls

    def start(self, model: nn.Module) -> None:
        """Begin the first tenth."""
        self._model = model
        self._restart()

    def call(self, call: Call) -> None:
        """Remember what repeats it."""
        self._noise.call(call)

    def gradient(self, position: int, gradient: Tensor) -> None:
        """Only its length."""
        self._noise.gradient(position, gradient)

    def micro_batch(self, examples: int) -> None:
        """A piece is complete."""
        self._noise.micro_batch(examples)

    def step(self, observation: Observation) -> None:
        """Measure, and close a tenth at its last step."""
        self._noise.step(observation)
        self._seen += 1
        if tenth := self._ends.get(self._seen):
            self._close(tenth / TENTHS)

    def _close(self, place: float) -> None:
        estimate = self._noise.estimate()
        known = (math.nan, math.nan) if estimate is None else (estimate.trace.estimate, estimate.square.estimate)
        self.found |= {f"noise_trace@{place:g}": known[0], f"noise_square@{place:g}": known[1]}
        self._restart()

    def _restart(self) -> None:
        self._noise = NoiseScale(window=10 * MEASURED, split_every=self._every, split_share=SHARE)
        self._noise.start(self._model)

    def state_dict(self) -> dict[str, Any]:
        """What was found, and what the tenth at hand has measured."""
        return {"seen": self._seen, "found": self.found, "noise": self._noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self._seen, self.found = state["seen"], dict(state["found"])
        self._noise.load_state_dict(state["noise"])


def noise_found(_: RunSpec, __: nn.Module, ___: Splits, watcher: Observer) -> Mapping[str, float]:
    """The numbers of every tenth."""
    assert isinstance(watcher, NoiseTenths)
    return watcher.found
