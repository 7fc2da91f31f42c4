"""The numbers of `page-sweep`: edges and best factors of one seed's runs, and how they move with n and B."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rebatch.interval import Interval
from rebatch.recipe import Sgd
from rebatch.stability import edge, optimum, stable_lr_of, unstable
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.page_2018.common import KAPPA
from rebatch.study.studies.page_2018.sweep_point import Point

# Over twice the loss at the next smaller factor: broken, though batch norm often recovers. Not below a tenth of a
# guess's loss: there a network has all but learned its examples, and nearly nothing differs by any factor.
JUMP, LEAST = 2.0, 0.1


@dataclass(frozen=True)
class Sweep:
    """The runs of one seed at one batch size on one set, by rising factor."""

    runs: Mapping[float, FinishedRun]

    @property
    def rates(self) -> list[float]:
        """The factors."""
        return list(self.runs)

    @property
    def steps(self) -> float:
        """Of a run that did not diverge."""
        return max(run.metrics.get("step", 0.0) for run in self.runs.values())

    @property
    def train_losses(self) -> list[float]:
        """Of the last epoch, as it was trained on; inf where the run diverged."""
        return [_loss(run, "last_epoch_loss") for run in self.runs.values()]

    @property
    def chance_loss(self) -> float:
        """The loss of a guess."""
        known = [run.metrics["chance_loss"] for run in self.runs.values() if "chance_loss" in run.metrics]
        return known[0] if known else math.nan

    @property
    def broken(self) -> list[bool]:
        """Which factors break training."""
        least = LEAST * self.chance_loss
        return unstable(self.train_losses, self.chance_loss, rates=self.rates, jump=JUMP, least=least)

    @property
    def edge(self) -> Interval:
        """Between the largest factor that holds and the smallest that does not."""
        return edge(self.rates, self.broken)

    def losses(self, name: str) -> list[float]:
        """A loss after the last step, inf where training broke."""
        found = zip(self.runs.values(), self.broken, strict=True)
        return [math.inf if gone else _loss(run, name) for run, gone in found]

    @property
    def optimum(self) -> float:
        """The best factor by validation loss; an end of the sweep where it may lie beyond."""
        return optimum(self.rates, self.losses("validation_loss"))

    @property
    def edge_is_open(self) -> bool:
        """Whether the edge lies beyond the factors that were tried."""
        return not 0.0 < self.edge.estimate < math.inf

    @property
    def optimum_is_open(self) -> bool:
        """Whether the best factor is an end of those that were tried."""
        return self.optimum in (self.rates[0], self.rates[-1])

    @property
    def best(self) -> FinishedRun | None:
        """The run with the lowest validation loss."""
        losses = self.losses("validation_loss")
        return self.runs[self.rates[losses.index(min(losses))]] if math.isfinite(min(losses)) else None

    def predicted_edge(self, factor: float) -> float:
        """Where a quadratic with the curvature at the peak rate of the run at `factor` would break, as a factor."""
        run = self.runs.get(factor)
        if run is None or "peak_eigenvalue" not in run.metrics or not isinstance(run.recipe.optimizer, Sgd):
            return math.nan
        stable = stable_lr_of(run.recipe.optimizer, run.metrics["peak_eigenvalue"])
        return factor * stable / run.metrics["peak_lr"]


Sweeps = Mapping[tuple[bool, int, int], Sweep]
"""By whether updates are equal, batch size and number of examples."""


def sweeps(runs: SeedRuns) -> Sweeps:
    """One seed's runs in order."""
    found: dict[tuple[bool, int, int], dict[float, FinishedRun]] = {}
    for point, run in sorted(((Point.of(name), run) for name, run in runs.items()), key=lambda each: each[0]):
        found.setdefault((point.equal_updates, point.batch_size, point.examples), {})[point.factor] = run
    return _with_shared({key: Sweep(by_factor) for key, by_factor in found.items()})


def _with_shared(known: Sweeps) -> Sweeps:
    """The whole set's sweep stands for both modes where it has as many updates as the smaller sets' runs."""
    found = dict(known)
    for (equal_updates, batch_size, _), sweep in known.items():
        whole = max((n for mode, size, n in known if not mode and size == batch_size), default=0)
        shared = known.get((False, batch_size, whole))
        if equal_updates and shared is not None and shared.steps == sweep.steps:
            found.setdefault((True, batch_size, whole), shared)
    return found


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Edge, best factor and best test loss of every sweep, and what the claims compare; factors in octaves (log2).

    An edge beyond the factors that were tried has no number, a best factor at an end is that end: `edge_open`,
    `optimum_open` and `room_open` (either) are 1 then, where one of the sweeps that they name is so.
    """
    found = sweeps(runs)
    numbers: dict[str, float] = {}
    for (equal_updates, batch_size, examples), sweep in found.items():
        where = f"{batch_size}, n {examples}" + (", equal updates" if equal_updates else "")
        numbers |= {f"log2_edge:{where}": _log_edge(sweep), f"log2_optimum:{where}": _log_optimum(sweep)}
        if sweep.best is not None:
            numbers[f"best_test_loss:{where}"] = sweep.best.metrics.get("test_loss", math.nan)
    by_batch: dict[tuple[bool, int], dict[int, Sweep]] = {}
    for (equal_updates, batch_size, examples), sweep in found.items():
        by_batch.setdefault((equal_updates, batch_size), {})[examples] = sweep
    for (equal_updates, batch_size), sets in by_batch.items():
        numbers |= _over_sets(sets, f"{batch_size}, equal updates" if equal_updates else str(batch_size))
    whole = {size: sets[max(sets)] for (equal_updates, size), sets in by_batch.items() if not equal_updates}
    for batch_size, sweep in whole.items():
        numbers |= _of_whole_set(sweep, batch_size)
    for small in whole:
        if (large := KAPPA * small) in whole:
            numbers |= _over_batches(whole[small], whole[large], f"{small}/{large}")
    return numbers


def _over_sets(sets: Mapping[int, Sweep], label: str) -> dict[str, float]:
    """Slopes against log2 n; and the room on the largest set, as the line through the smaller ones predicts it."""
    edges, best, room = ({n: of(sweep) for n, sweep in sets.items()} for of in (_log_edge, _log_optimum, _room))
    ahead = max(sets)
    smaller = {n: value for n, value in room.items() if n != ahead}
    return {
        **_open(label, *sets.values()),
        f"edge_slope:{label}": _slope(edges),
        f"optimum_slope:{label}": _slope(best),
        f"room_slope:{label}": _slope(room),
        f"room_missed:{label}": _line_at(smaller, ahead) - room[ahead],
    }


def _of_whole_set(sweep: Sweep, batch_size: int) -> dict[str, float]:
    held = sweep.edge.low
    predicted = {"": sweep.predicted_edge(held), ", f 1": sweep.predicted_edge(1.0)}
    return {
        **_open(f"{batch_size}, whole set", sweep),
        f"room:{batch_size}": _room(sweep),
        f"jump:{batch_size}": _jump(sweep),
        f"best_over_last:{batch_size}": _log(_best_of_evaluations(sweep)) - _log_optimum(sweep),
        **{f"log2_predicted_edge:{batch_size}{at}": _log(value) for at, value in predicted.items()},
        **{f"prediction_error:{batch_size}{at}": _log(value) - _log_edge(sweep) for at, value in predicted.items()},
    }


def _over_batches(small: Sweep, large: Sweep, label: str) -> dict[str, float]:
    shift = _log_optimum(large) - _log_optimum(small)
    losses = [
        math.nan if each.best is None else each.best.metrics.get("test_loss", math.nan) for each in (small, large)
    ]
    return {
        **_open(label, small, large),
        f"edge_ratio:{label}": _log_edge(small) - _log_edge(large),
        f"optimum_shift:{label}": shift,
        f"optimum_shift_from_x1.1:{label}": shift - math.log2(1.1),
        f"loss_ratio:{label}": losses[1] / losses[0],
        f"room_lost:{label}": _room(small) - _room(large),
    }


def _open(label: str, *found: Sweep) -> dict[str, float]:
    edges, best = any(each.edge_is_open for each in found), any(each.optimum_is_open for each in found)
    states = {"edge": edges, "optimum": best, "room": edges or best}
    return {f"{what}_open:{label}": float(state) for what, state in states.items()}


def _loss(run: FinishedRun, name: str) -> float:
    return math.inf if run.diverged else run.metrics.get(name, math.nan)


def _log(value: float) -> float:
    return math.log2(value) if 0.0 < value < math.inf else math.nan


def _log_edge(sweep: Sweep) -> float:
    return _log(sweep.edge.estimate)


def _log_optimum(sweep: Sweep) -> float:
    return _log(sweep.optimum)


def _room(sweep: Sweep) -> float:
    """Octaves from the best factor to the edge."""
    return _log_edge(sweep) - _log_optimum(sweep)


def _jump(sweep: Sweep) -> float:
    """Octaves by which the training loss rises across the edge, less those of the octave of f before it.

    A diverged run counts with the loss of a guess.
    """
    losses = [loss if math.isfinite(loss) else sweep.chance_loss for loss in sweep.train_losses]
    first = sweep.broken.index(True) if True in sweep.broken else 0
    before = max((place for place in range(first) if sweep.rates[place] <= sweep.rates[first - 1] / 2), default=None)
    if first < 1 or before is None:
        return math.nan
    return math.log2(losses[first] / losses[first - 1]) - math.log2(losses[first - 1] / losses[before])


def _best_of_evaluations(sweep: Sweep) -> float:
    """The best factor if the best of a run's evaluations counts; nan without rows."""
    if not all(run.has_rows for run in sweep.runs.values()):
        return math.nan
    lowest = [
        math.inf if gone else min((loss for _, loss in run.column("validation_loss")), default=math.inf)
        for run, gone in zip(sweep.runs.values(), sweep.broken, strict=True)
    ]
    return optimum(sweep.rates, lowest)


def _slope(by_examples: Mapping[int, float]) -> float:
    """Of a number against log2 n; nan where one is missing or there is one set."""
    values = list(by_examples.values())
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return float(np.polyfit(np.log2(list(by_examples)), values, 1)[0])


def _line_at(by_examples: Mapping[int, float], examples: int) -> float:
    """What the straight line in log2 n through these numbers says at another n."""
    slope, middle = _slope(by_examples), fmean(map(math.log2, by_examples)) if by_examples else math.nan
    return fmean(by_examples.values()) + slope * (math.log2(examples) - middle) if by_examples else math.nan
