"""When does a schedule that listens to the run drop the learning rate? (`schedule.Plateau`, `schedule.DistanceDrop`)"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rebatch.distance import weight_distance
from rebatch.schedule import ROUNDING, DistanceDrop, Plateau, Schedule

# Reading the distance costs a pass over the weights: at every tenth step, oftener where a run has under 1,000 of them.
STEPS_BETWEEN_READINGS = 10


class Drops:
    """Counts the drops of a schedule so far; for schedules that do not listen the count stays 0."""

    def __init__(self, schedule: Schedule, total: int, weights: Sequence[Tensor]) -> None:
        self._schedule, self._total, self._weights = schedule, total, weights
        self._start = [weight.detach().clone() for weight in weights] if isinstance(schedule, DistanceDrop) else []
        self._best, self._since = math.inf, 0
        self._every = max(1, min(STEPS_BETWEEN_READINGS, total // 100))
        self.count = 0

    def before_step(self, step: int) -> int:
        """The count that holds in step `step`."""
        match self._schedule:
            case DistanceDrop(distances=distances, latest=latest) if self.count < len(distances):
                overdue = sum(step / self._total + ROUNDING >= end for end in latest)
                self.count = max(self.count, overdue)
                if step % self._every == 0:
                    travelled = weight_distance(self._weights, self._start).item()
                    self.count = max(self.count, sum(travelled >= distance for distance in distances))
            case _:
                pass
        return self.count

    def after_row(self, row: Mapping[str, float]) -> None:
        """Read the metric of a plateau where a row has it."""
        match self._schedule:
            case Plateau(patience=patience, drops=drops, metric=metric) if "validation_loss" in row:
                value = -row[metric] if metric == "validation_accuracy" else row[metric]
                if value < self._best:
                    self._best, self._since = value, int(row["step"])
                elif (row["step"] - self._since) / self._total + ROUNDING >= patience and self.count < drops:
                    self.count += 1
                    self._since = int(row["step"])
            case _:
                pass

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside its first weights."""
        return {"count": self.count, "best": self._best, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self.count, self._best, self._since = state["count"], state["best"], state["since"]
