"""A store of runs that never ran: rows and results made up from (arm, seed), by the store's own functions."""

import math
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from rebatch.batching import examples_seen, measured_steps, total_steps
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.study.claims import Claim
from rebatch.study.plan import Arm, Design, Plan
from rebatch.study.store import Result, Store

ENVIRONMENT = {"rebatch": "0.1.0", "torch": "2.6.0", "processor": "A processor", "threads": 1, "commit": None}
EXAMPLES, CHANCE = 101, 10.0

MakeStore = Callable[..., tuple[Store, Plan]]


def recipe(batch_size: int, epochs: float) -> Recipe:
    return Recipe(batch_size=batch_size, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(epochs))


ARMS = (
    Arm(name="small_batch", recipe=recipe(2, 3)),
    Arm(name="large_batch", recipe=recipe(23, 3)),
    Arm(name="large_batch+ra", recipe=recipe(23, 11), note="more examples"),
)


def finish_run(
    store: Store,
    plan: Plan,
    arm: Arm,
    seed: int,
    *,
    accuracy: float,
    diverged_at: int | None = None,
    environment: Mapping[str, object] = ENVIRONMENT,
) -> None:
    """Write the rows and the result of one run; its accuracy comes up as a saturating curve with some noise."""
    noise = random.Random(f"{arm.name} {seed}")
    total = total_steps(arm.recipe, plan.examples)
    logarithmic, even = measured_steps(total, plan.design.evaluations)
    folder = store.begin(plan.spec(arm, seed))
    for step in sorted({*logarithmic, *even}):
        seen = examples_seen(step, plan.examples, arm.recipe)
        row = {"step": step, "examples": seen, "epoch": seen / plan.examples, "lr": 0.1, "train_loss": 1.0}
        row["weight_distance"] = (1.5 + 0.02 * noise.random()) * math.log1p(step)
        if step in even:
            left = (accuracy - plan.chance) * math.exp(-9.0 * step / total)
            row["validation_accuracy"] = accuracy - left + noise.gauss(0, 0.3)
            row["validation_loss"] = 0.1
        if diverged_at is not None and step >= diverged_at:
            folder.append({**row, "train_loss": math.nan, "diverged": 1})
            break
        folder.append(row)
    status, reached = ("done", accuracy) if diverged_at is None else ("diverged", plan.chance)
    folder.finish(
        Result(status=status, steps=total, accuracy=reached, seconds=1.5, environment=environment)  # type: ignore[arg-type]
    )


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Makes a store with one plan; `finished` says which (arm, seed) have a result, all by default."""

    def make(
        *,
        arms: tuple[Arm, ...] = ARMS,
        claims: tuple[Claim, ...] = (),
        seeds: int = 3,
        gap: tuple[str, str] | None = None,
        finished: Collection[tuple[str, int]] | None = None,
        diverged: Collection[tuple[str, int]] = (),
        study: str = "made-up",
        title: str = "Does a made-up study hold?",
        command: str = "rebatch study run made-up",
        task: str = "digits/mlp",
    ) -> tuple[Store, Plan]:
        design = Design(arms=arms, claims=claims, seeds=seeds, gap=gap, evaluations=7)
        plan = Plan(
            study=study,
            title=title,
            source="nobody",
            task=task,
            scale="quick",
            design=design,
            execution=Execution(),
            examples=EXAMPLES,
            chance=CHANCE,
            seed_draws_split=True,
            command=command,
        )
        store = Store(tmp_path / "store", create=True)
        store.save_plan(plan)
        for place, arm in enumerate(arms):
            for seed in range(seeds):
                if finished is None or (arm.name, seed) in finished:
                    accuracy = 97.0 - 1.5 * place + 0.25 * ((seed * 7 + place * 3) % 5)
                    stop = 6 if (arm.name, seed) in diverged else None
                    finish_run(store, plan, arm, seed, accuracy=accuracy, diverged_at=stop)
        return store, plan

    return make
