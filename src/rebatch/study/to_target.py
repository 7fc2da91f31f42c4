"""How many steps does a batch size take to a loss, at its own best constant rate? Tuned and measured on separate seeds.

Each batch size tries rates on a grid of doublings, from the arm's own on, until both neighbors of the best are slower,
with the caution of `study.branch`. The rate is judged by trainings from other weights and in other orders than
those that are then measured, so that the number has no share in the choice.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from rebatch.critical_batch import climb, first_passage
from rebatch.data.sets import Splits
from rebatch.study.branch import CAUTION, MOST_RATES, RATIO, branch_recipe, loss_course
from rebatch.study.plan import RunSpec
from rebatch.study.probes import ToTarget
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task

Measured = tuple[list[dict[str, float]], dict[str, float]]

# From here on: seeds of further trainings on the data of one seed of a study.
OTHER_SEEDS = 1_000_003


def to_target(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """`steps` (their geometric mean) and `examples` to the target, at the rate `lr`; `missed`, how many miss it.

    Those count with all the steps that they were allowed: it takes more. Rows are the first training's looks.
    """
    wanted, recipe = spec.probe, spec.recipe
    assert isinstance(wanted, ToTarget)
    trainings = _Trainings(spec, wanted, task, splits_of(spec, task, data_dir))
    lr = recipe.optimizer.lr * RATIO ** trainings.best_place()
    looks: list[tuple[int, float]] = []
    found = [trainings.steps(lr, trainings.seed(0), wanted.most, looks)]
    found += [trainings.steps(lr, trainings.seed(number), wanted.most) for number in range(1, wanted.measured)]
    steps = geometric_mean(min(each, wanted.most) for each in found)
    rows = [{"step": float(step), "validation_loss": loss} for step, loss in looks]
    missed = sum(map(math.isinf, found))
    return rows, {"steps": steps, "examples": steps * recipe.batch_size, "lr": lr, "missed": float(missed)}


@dataclass(frozen=True)
class _Trainings:
    spec: RunSpec
    wanted: ToTarget
    task: Task
    data: Splits

    def best_place(self) -> int:
        """On the grid of rates: where the tuning trainings take the fewest steps, for its height (`CAUTION`).

        One that misses the target counts with twice the steps that it was allowed, as in `study.branch`; a
        rate that is slower than the best is left early.
        """
        most = self.wanted.most
        least = math.inf

        def cost(place: int) -> float:
            nonlocal least
            handicap = CAUTION**place
            total = 0.0
            for number in range(self.wanted.tuning):
                lr, seed = self.spec.recipe.optimizer.lr * RATIO**place, self.seed(self.wanted.measured + number)
                total += min(self.steps(lr, seed, min(most, least / handicap - total)), 2.0 * most)
                if total * handicap > least:
                    break
            least = min(least, total * handicap)
            return total * handicap

        return climb(cost, most=MOST_RATES)

    def steps(self, lr: float, seed: int, most: float, looks: list[tuple[int, float]] | None = None) -> float:
        """When the validation loss first reaches the target; inf where that is not within `most` steps."""
        model, seen = self.task.model(seed, self.data), [] if looks is None else looks
        recipe = branch_recipe(self.spec.recipe.with_lr(lr), max(1, math.ceil(most)))

        def course() -> Iterator[tuple[int, float]]:
            for look in loss_course(model, self.data, recipe, execution=self.spec.execution, seed=seed):
                seen.append(look)
                yield look

        return first_passage(course(), self.wanted.target, start=math.log(self.task.classes))  # of a guess

    def seed(self, number: int) -> int:
        """Of the study's seed's trainings the first has that seed, all others have seeds that no run of a study has."""
        return self.spec.seed if number == 0 else (self.spec.seed + 1) * OTHER_SEEDS + number
