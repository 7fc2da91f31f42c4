"""A study before its runs: which arms, which seeds, which claims; and the run that each (arm, seed) stands for."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from rebatch.batching import START, Place, place, total_steps
from rebatch.errors import RequestError, did_you_mean
from rebatch.execution import Execution
from rebatch.plain import plain
from rebatch.recipe import Recipe
from rebatch.study.claims import Claim, arms_of, quantities_of
from rebatch.study.probes import Probe
from rebatch.study.records import SeedRuns
from rebatch.tasks.find import describe, find_task
from rebatch.tasks.table import SIMULATION
from rebatch.tasks.task import Task

Scale = Literal["quick", "cpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which part of a task's training set a run sees, and how.

    Attributes:
        examples: so many of them, classes balanced; smaller sets lie within larger ones, whatever the seed.
        augmented: whether the task's augmentations are applied.
        without: augmentations that are left out, by the name of their draws: "flip", "pad_crop".
    """

    examples: int | None = None
    augmented: bool = True
    without: tuple[str, ...] = ()


class Continued(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run that another goes on from, after how many of its steps, and the noise scale there where one was given."""

    spec: "RunSpec"
    steps: int
    noise_scale: float | None = None


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that changes the numbers of one training.

    `task_digest` identifies the file of a user's own task. `batch_norm_cut` is (micro_batch_size or 0, ranks) where
    plain batch norm was allowed to see pieces of the batch; elsewhere cutting a step does not change its numbers.
    `probe` is what the run does instead of a training; `finals` name what is measured after its last step; `data` is
    what it trains on; `continues` is the run from whose state it begins.
    """

    task: str
    recipe: Recipe
    seed: int
    execution: Execution = Execution()
    evaluations: int = 20
    task_digest: str = ""
    batch_norm_cut: tuple[int, int] | None = None
    probe: Probe | None = None
    finals: tuple[str, ...] = ()
    data: TrainingSet = TrainingSet()
    continues: Continued | None = None

    @property
    def run_id(self) -> str:
        """Hash of the numbers: fields at their default and the recipe's memory of where it came from do not count."""
        spec = self.as_tuned()
        spec = msgspec.convert(msgspec.to_builtins(spec), RunSpec)  # lr = 1 and lr = 1.0 are one run
        return hashlib.sha256(msgspec.json.encode(plain(spec), order="sorted")).hexdigest()[:16]

    def as_tuned(self) -> "RunSpec":
        """The same numbers without the recipes' memory of where they came from."""
        before = self.continues
        if before is not None:
            before = msgspec.structs.replace(before, spec=before.spec.as_tuned())
        return msgspec.structs.replace(self, recipe=self.recipe.as_tuned(), continues=before)

    def start(self, examples: int) -> Place:
        """Where it begins on N `examples`: where the run that it continues stood."""
        before = self.continues
        if before is None:
            return START
        return place(before.steps, examples, before.spec.recipe, before.spec.start(examples))


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a study.

    Attributes:
        note: what it gets more of than the others, for the table.
        seeds: how many runs, where not as many as the other arms; the first has seed `first_seed`.
        candidate: an arm that only serves to choose another; it is tuned on, not reported.
        best_of: names of candidates; the arm's recipe is that of the one with the best mean validation accuracy (the
            first of equals), put in by the engine when all of them have run. Until then `recipe` is a stand-in.
        chosen: which of them that was.
        execution: how its runs are computed, where not as those of the other arms.
        probe: what its runs do instead of training by the recipe.
        finals: what is measured after the last step, by name (`study.finals.FINALS`).
        data: what its runs train on.
        task: a built-in task of the same data whose model its runs train, where not that of the study's own.
    """

    name: str
    recipe: Recipe
    note: str = ""
    seeds: int | None = None
    first_seed: int = 0
    candidate: bool = False
    best_of: tuple[str, ...] = ()
    chosen: str = ""
    execution: Execution | None = None
    probe: Probe | None = None
    finals: tuple[str, ...] = ()
    data: TrainingSet = TrainingSet()
    task: str = ""


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """What a study does on one task at one scale. `gap` names the small and the large arm where shares make sense."""

    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    seeds: int
    gap: tuple[str, str] | None = None
    evaluations: int = 20


@dataclass(frozen=True)
class Study:
    """A question with arms and seeds.

    Attributes:
        design: what the study means for a task at a scale, before any run.
        quantities: from the finished runs of one seed, by arm, to named numbers that claims speak about; a number that
            the runs at hand do not give is left out.
        task: where it runs if the user names no task.
        other_tasks: built-in tasks on which its design holds claims that it does not hold there.
    """

    name: str
    title: str
    source: str
    design: Callable[[Task, Scale], Design]
    quantities: Callable[[SeedRuns], Mapping[str, float]] | None = None
    task: str = "digits"
    other_tasks: tuple[str, ...] = ()


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
            task=arm.task or self.task,
            recipe=arm.recipe.as_tuned(),
            seed=seed,
            execution=arm.execution or self.execution,
            evaluations=self.design.evaluations,
            task_digest="" if arm.task else self.task_digest,
            probe=arm.probe,
            finals=arm.finals,
            data=arm.data,
        )

    def seeds(self, arm: Arm) -> range:
        """The seeds of an arm's runs; none while it waits for its candidates."""
        if arm.best_of and not arm.chosen:
            return range(0)
        count = self.design.seeds if arm.seeds is None else arm.seeds
        return range(arm.first_seed, arm.first_seed + count)

    def runs(self) -> list[tuple[Arm, int]]:
        """All runs, arms within seeds: after the first seed a study already says something about every arm."""
        seeds = {arm.name: self.seeds(arm) for arm in self.design.arms}
        most = max(map(len, seeds.values()), default=0)
        return [
            (arm, seeds[arm.name][place])
            for place in range(most)
            for arm in self.design.arms
            if place < len(seeds[arm.name])
        ]

    def specs(self, arms: Collection[str] | None = None) -> list[RunSpec]:
        """All runs, or those of the named `arms`, in the order of `runs`, each once: arms may share runs."""
        chosen = [self.spec(arm, seed) for arm, seed in self.runs() if arms is None or arm.name in arms]
        return list({spec.run_id: spec for spec in chosen}.values())

    @property
    def waiting(self) -> list[Arm]:
        """Arms whose candidates have not been compared yet."""
        return [arm for arm in self.design.arms if arm.best_of and not arm.chosen]

    def steps(self, arm: Arm) -> int:
        """Optimizer steps of one run of `arm`."""
        return total_steps(arm.recipe, self.examples_of(arm))

    def examples_of(self, arm: Arm) -> int:
        """Size of the training set of `arm`."""
        return self.examples if arm.data.examples is None else arm.data.examples


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
    """Plan `study` on `task`; `seeds` overrides the number that the study asks for.

    Raises:
        RequestError: the study's design fails, or names arms that it does not have, or a batch cannot be filled.
    """
    if (task.name == SIMULATION.name) != (study.task == "simulation"):
        way = "leave --task out" if study.task == "simulation" else "name one that has a model and data"
        raise RequestError(f"study {study.name!r} does not run on task {task.name!r}; {way}")
    design = _design(study, task, scale)
    if seeds is not None:
        design = msgspec.structs.replace(design, seeds=seeds, arms=tuple(_at_most(arm, seeds) for arm in design.arms))
    _check(design, f"study {study.name!r}", measures=study.quantities is not None)
    plan = Plan(
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
    for arm in design.arms:
        _check_task(arm, task)
        if not 1 <= plan.examples_of(arm) <= task.train:
            limit = f"from 1 to the {task.train} training examples of {task.name}"
            raise RequestError(f"data.examples of arm {arm.name!r} must be {limit}, got {arm.data.examples}")
        plan.steps(arm)  # a batch that the data cannot fill is refused here, before any run
    return plan


def _design(study: Study, task: Task, scale: Scale) -> Design:
    """What the study's function returns, with every field of the type it should have."""
    try:
        with redirect_stdout(sys.stderr):
            design = study.design(task, scale)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(f"study {study.name!r} cannot be planned: {describe(error)}") from error
    code = getattr(study.design, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    if not isinstance(design, Design):
        raise RequestError(f"the design of study {study.name!r} must return a Design, got {design!r}{place}")
    try:
        return msgspec.convert(msgspec.to_builtins(design), Design)
    except (TypeError, msgspec.ValidationError) as error:
        raise RequestError(f"the design of study {study.name!r} is not valid: {error}{place}") from None


def _check(design: Design, study: str, *, measures: bool) -> None:
    """An arm that is asked for and not there is refused now, not after hours of runs."""
    arms = [arm.name for arm in design.arms]
    if not arms:
        raise RequestError(f"{study} has no arms; it needs at least one")
    if design.seeds < 1:
        raise RequestError(f"{study} has {design.seeds} seeds; it needs at least one")
    for kind, names in (("arms", arms), ("claims", [claim.id for claim in design.claims])):
        if twice := _repeated(names):
            raise RequestError(f"{study} has two {kind} named {twice!r}; give each its own name")
    for arm in design.arms:
        if arm.seeds is not None and arm.seeds < 1:
            raise RequestError(f"arm {arm.name!r} of {study} has {arm.seeds} seeds; it needs at least one")
        for name in arm.best_of:
            if name not in arms:
                raise RequestError(f"arm {arm.name!r} of {study} chooses from {name!r}{did_you_mean(name, arms)}")
            if name == arm.name:
                raise RequestError(f"arm {arm.name!r} of {study} chooses from itself; name its candidates")
    for claim in design.claims:
        if (names := quantities_of(claim.compared)) and not measures:
            raise RequestError(f"claim {claim.id!r} of {study} speaks about {names[0]!r}; the study has no quantities")
    wanted = [(f"claim {claim.id!r}", name) for claim in design.claims for name in arms_of(claim.compared)]
    for where, name in [*wanted, *(("gap", name) for name in design.gap or ())]:
        if name not in arms:
            raise RequestError(f"{where} of {study} names an unknown arm {name!r}{did_you_mean(name, arms)}")


def _check_task(arm: Arm, task: Task) -> None:
    if not arm.task:
        return
    other = find_task(arm.task)
    own, others = ((each.train, each.validation, each.test, each.classes) for each in (task, other))
    if own != others:
        raise RequestError(
            f"arm {arm.name!r} trains the model of {other.name} with {others} training, validation and test examples "
            f"and classes, {task.name} has {own}; name a task of the same data"
        )


def _at_most(arm: Arm, seeds: int) -> Arm:
    """An arm that has fewer seeds than others keeps them; candidates keep theirs, so that the choice stays the same."""
    fewer = arm.seeds if arm.seeds is None or arm.candidate else min(arm.seeds, seeds)
    return msgspec.structs.replace(arm, seeds=fewer)


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs twice, if one does."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
