"""A study before its runs: which arms, which seeds, which claims; and the run that each (arm, seed) stands for."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from rebatch.batching import total_steps
from rebatch.execution import Execution
from rebatch.plain import plain
from rebatch.recipe import Recipe
from rebatch.study.claims import Claim
from rebatch.tasks.task import Task

Scale = Literal["quick", "cpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that changes the numbers of one training.

    `task_digest` identifies the file of a user's own task. `batch_norm_cut` is (micro_batch_size or 0, ranks) where
    plain batch norm was allowed to see pieces of the batch; elsewhere cutting a step does not change its numbers.
    """

    task: str
    recipe: Recipe
    seed: int
    execution: Execution = Execution()
    evaluations: int = 20
    task_digest: str = ""
    batch_norm_cut: tuple[int, int] | None = None

    @property
    def run_id(self) -> str:
        """Hash of the numbers: fields at their default and the recipe's memory of where it came from do not count."""
        spec = msgspec.structs.replace(self, recipe=self.recipe.as_tuned())
        spec = msgspec.convert(msgspec.to_builtins(spec), RunSpec)  # lr = 1 and lr = 1.0 are one run
        return hashlib.sha256(msgspec.json.encode(plain(spec), order="sorted")).hexdigest()[:16]


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a study. `note` says what it gets more of than the others, for the table."""

    name: str
    recipe: Recipe
    note: str = ""


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """What a study does on one task at one scale. `gap` names the small and the large arm where shares make sense."""

    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    seeds: int
    gap: tuple[str, str] | None = None
    evaluations: int = 20


@dataclass(frozen=True)
class Study:
    """A question with arms and seeds. `design` says what that means for a task at a scale, before any run."""

    name: str
    title: str
    source: str
    design: Callable[[Task, Scale], Design]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A study planned for a task: all that its runs and its verdicts need, kept in the store beside the runs."""

    study: str
    title: str
    source: str
    task: str
    scale: Scale
    design: Design
    execution: Execution
    examples: int
    chance: float
    seed_draws_split: bool
    task_digest: str = ""
    command: str = ""

    @property
    def name(self) -> str:
        """How files call it: `hoffer-gap-digits-mlp-quick`."""
        return plan_name(self.study, self.task, self.scale)

    def spec(self, arm: Arm, seed: int) -> RunSpec:
        """The run of `arm` with `seed`."""
        return RunSpec(
            task=self.task,
            recipe=arm.recipe.as_tuned(),
            seed=seed,
            execution=self.execution,
            evaluations=self.design.evaluations,
            task_digest=self.task_digest,
        )

    def specs(self) -> list[RunSpec]:
        """All runs, arms within seeds: after the first seed a study already says something about every arm."""
        return [self.spec(arm, seed) for seed in range(self.design.seeds) for arm in self.design.arms]

    def steps(self, arm: Arm) -> int:
        """Optimizer steps of one run of `arm`."""
        return total_steps(arm.recipe, self.examples)


def plan_name(study: str, task: str, scale: str) -> str:
    """The name that folders and files carry: `/` becomes `-`.

    >>> plan_name("hoffer-gap", "digits/mlp", "quick")
    'hoffer-gap-digits-mlp-quick'
    """
    return "-".join(part.replace("/", "-") for part in (study, task, scale))


def make_plan(
    study: Study,
    task: Task,
    scale: Scale,
    *,
    execution: Execution,
    seeds: int | None = None,
    task_digest: str = "",
    command: str = "",
) -> Plan:
    """Plan `study` on `task`; `seeds` overrides the number that the study asks for."""
    design = study.design(task, scale)
    if seeds is not None:
        design = msgspec.structs.replace(design, seeds=seeds)
    for arm in design.arms:
        total_steps(arm.recipe, task.train)  # a batch that the data cannot fill is refused here, before any run
    return Plan(
        study=study.name,
        title=study.title,
        source=study.source,
        task=task.name,
        scale=scale,
        design=design,
        execution=execution,
        examples=task.train,
        chance=task.chance,
        seed_draws_split=task.seed_draws_split,
        task_digest=task_digest,
        command=command,
    )
