"""A study that chooses a learning rate, measures a quantity and runs a probe: twelve short runs on digits."""

import math
from collections.abc import Mapping

from rebatch.recipe import Steps
from rebatch.study.claims import AllOf, Claim, Greater, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import EpochCorrelation
from rebatch.study.records import SeedRuns
from rebatch.tasks import Task

FACTORS = {"low": 0.01, "high": 1.0, "wild": 1e30}


def design(task: Task, scale: Scale) -> Design:
    short = task.recipe.replace(budget=Steps(40))
    candidates = [
        Arm(name=name, recipe=short.with_lr(0.025 * factor), seeds=2, first_seed=1000, candidate=True)
        for name, factor in FACTORS.items()
    ]
    tests: dict[str, Test] = {
        "large": Quantity("twice", low=150.0, unit="half points"),
        "better": AllOf((Greater("best", "fixed"), Quantity("twice", high=200.0))),
    }
    return Design(
        arms=(
            *candidates,
            Arm(name="best", recipe=short, best_of=tuple(FACTORS)),
            Arm(name="fixed", recipe=short.with_lr(0.0025), finals=("train_evaluation",)),
            Arm(name="probed", recipe=short, probe=EpochCorrelation(after=0.0, epochs=3), seeds=1),
        ),
        claims=tuple(
            Claim(id=name, statement=name, source="a test", test=test, expected=None, why="a test")
            for name, test in tests.items()
        ),
        seeds=2,
        evaluations=2,
    )


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    found = {"never": math.nan}
    if "best" in runs:
        assert not FACTORS.keys() & runs.keys()
        found["twice"] = 2.0 * runs["best"].metrics["test_accuracy"]
    if "fixed" in runs:
        found["rows"] = float(len(runs["fixed"].rows))
        found["train"] = runs["fixed"].metrics["final_train_accuracy"]
    return found


choosing = Study(name="choosing", title="It chooses", source="a test", design=design, quantities=quantities)
