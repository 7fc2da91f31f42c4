"""From a plan and the results in its store to the numbers that tables, figures and `--json` show."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from rebatch.interval import Interval
from rebatch.price import Cost, cost
from rebatch.statistics import mean_interval
from rebatch.study.choosing import edge_of_grid, validation_accuracy
from rebatch.study.claims import ArmOutcome, PartEffect, Quantities, Quantity, unit
from rebatch.study.judging import gap_share, judge
from rebatch.study.plan import Arm, Plan
from rebatch.study.store import Result, Store


class Accuracy(msgspec.Struct, frozen=True):
    """Test accuracy in percent: mean over seeds, 95 % interval of the mean, the values by seed."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table; `gap_share` is the part of the gap that the arm closes, where the gap is resolved.

    `seeds` are those of its finished runs; `probe` says what they do where that is no training, and then nothing is
    spent on steps.
    """

    name: str
    n: int
    batch_size: int
    steps: int
    examples: int
    epochs: float
    accuracy: Accuracy | None
    gap_share: Interval | None
    diverged: int
    note: str
    seeds: tuple[int, ...]
    probe: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An arm that served to choose another: its mean validation accuracy in percent over `n` seeds."""

    name: str
    n: int
    validation_accuracy: float | None
    chosen: bool


class QuantitySummary(msgspec.Struct, frozen=True, kw_only=True):
    """A number that the study makes of each seed's runs: mean over seeds, 95 % interval, the values by seed.

    `unit` is the one that a claim about it names, empty where none does.
    """

    name: str
    unit: str
    mean: float
    low: float
    high: float
    values: tuple[float, ...]


class ClaimSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A claim with its verdict for this task and scale; the effect's interval is adjusted (Holm) to `level`.

    `unit` is what the effect is measured in: percent points of accuracy, or what its quantity says. All else is the
    `Judgement`'s.
    """

    id: str
    statement: str
    source: str
    verdict: Literal["confirmed", "refuted", "undecided"]
    effect: Interval
    unit: str
    level: float
    expected: float | None
    parts: tuple[PartEffect, ...]
    smallest_detectable: float | None
    why: str
    note: str
    seeds_to_decide: int | None
    premise: tuple[PartEffect, ...]
    caveats: tuple[str, ...]


class Runs(msgspec.Struct, frozen=True):
    """How many runs are done, diverged or failed; `reused` of the first two were there before this command."""

    done: int
    diverged: int
    failed: int
    reused: int


class StudySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What `rebatch study run --json` and `rebatch study show --json` print.

    `planned` counts the runs of the plan; `seconds` is the time of all runs added up; `environments` are the distinct
    ones they were computed in.
    """

    study: str
    task: str
    scale: str
    title: str
    source: str
    execution: str
    arms: tuple[ArmSummary, ...]
    candidates: tuple[Candidate, ...]
    quantities: tuple[QuantitySummary, ...]
    claims: tuple[ClaimSummary, ...]
    runs: Runs
    command: str
    seeds: tuple[int, ...]
    planned: int
    seconds: float
    environments: tuple[Mapping[str, Any], ...]


def summarize(plan: Plan, store: Store, *, failed: int = 0, reused: int | None = None) -> StudySummary:
    """Tables and verdicts of what the store holds for `plan`; `reused` is all of it unless a command says otherwise."""
    results = {arm.name: store.results(plan, arm.name) for arm in plan.design.arms}
    finished = [result for found in results.values() for result in found.values()]
    test_examples = max((result.test_examples for result in finished), default=0)
    outcomes = {name: _outcome(plan, found, test_examples) for name, found in results.items()}
    quantities = store.quantities(plan)
    # Arms may share runs: a run counts once.
    runs = {
        plan.spec(arm, seed).run_id: results[arm.name][seed] for arm in plan.design.arms for seed in results[arm.name]
    }
    diverged = sum(result.status == "diverged" for result in runs.values())
    return StudySummary(
        study=plan.study,
        task=plan.task,
        scale=plan.scale,
        title=plan.title,
        source=plan.source,
        execution=plan.execution.describe(),
        arms=tuple(_arm(plan, arm, results[arm.name], outcomes) for arm in plan.design.arms if not arm.candidate),
        candidates=tuple(_candidate(plan, arm, store) for arm in plan.design.arms if arm.candidate),
        quantities=tuple(_quantity(name, by_seed, plan) for name, by_seed in quantities.items()),
        claims=_claims(plan, outcomes, quantities),
        runs=Runs(len(runs) - diverged, diverged, failed, len(runs) if reused is None else reused),
        command=plan.command,
        seeds=tuple(range(plan.design.seeds)),
        planned=len(plan.specs()),
        seconds=round(sum(result.seconds for result in runs.values()), 1),
        environments=tuple(_distinct([result.environment for result in finished])),
    )


def to_json(summary: StudySummary) -> bytes:
    """One JSON document; what is not finite (an interval without an end) is null."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2)


def _distinct(environments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for index, each in enumerate(environments) if each not in environments[:index]]


def _outcome(plan: Plan, found: dict[int, Result], test_examples: int) -> ArmOutcome:
    accuracy = {seed: result.accuracy for seed, result in found.items() if result.accuracy is not None}
    if plan.seed_draws_split or test_examples == 0:
        return ArmOutcome(accuracy=accuracy)
    # A diverged run counts at chance level for every example of the test set that the others have read.
    guess = np.full(test_examples, plan.chance / 100.0)
    hits = {seed: guess if found[seed].status == "diverged" else found[seed].hits() for seed in accuracy}
    return ArmOutcome(accuracy=accuracy, correct=hits)


def _arm(plan: Plan, arm: Arm, found: dict[int, Result], outcomes: dict[str, ArmOutcome]) -> ArmSummary:
    values = tuple(result.accuracy for _, result in sorted(found.items()) if result.accuracy is not None)
    spent: Cost = cost(arm.recipe, plan.examples_of(arm))
    return ArmSummary(
        name=arm.name,
        n=len(found),
        batch_size=arm.recipe.batch_size,
        steps=spent.steps,
        examples=spent.examples,
        epochs=spent.epochs,
        accuracy=_accuracy(values) if values else None,
        gap_share=_share(plan, arm.name, outcomes),
        diverged=sum(result.status == "diverged" for result in found.values()),
        note=_note(arm, plan),
        seeds=tuple(sorted(found)),
        probe="" if arm.probe is None else str(type(arm.probe).__struct_config__.tag),
    )


def _note(arm: Arm, plan: Plan) -> str:
    """The arm's note, with what was chosen for it."""
    if not arm.best_of:
        return arm.note
    choice = f"chosen on the validation split: {arm.chosen}" if arm.chosen else "waits for its candidates"
    if (grid := edge_of_grid(arm, plan)) is not None:
        choice += (
            f", at the edge of its grid (learning rates {grid[0]:.3g} to {grid[1]:.3g}): a better one may lie beyond"
        )
    return f"{arm.note}; {choice}" if arm.note else choice


def _candidate(plan: Plan, arm: Arm, store: Store) -> Candidate:
    return Candidate(
        name=arm.name,
        n=len(store.results(plan, arm.name)),
        validation_accuracy=validation_accuracy(arm, plan, store),
        chosen=any(other.chosen == arm.name for other in plan.design.arms),
    )


def _quantity(name: str, by_seed: Mapping[int, float], plan: Plan) -> QuantitySummary:
    tests = [part for claim in plan.design.claims for part in claim.compared.parts]
    units = [test.unit for test in tests if isinstance(test, Quantity) and test.name == name]
    values = tuple(value for _, value in sorted(by_seed.items()))
    interval = mean_interval(values)
    return QuantitySummary(
        name=name,
        unit=next(filter(None, units), ""),
        mean=interval.estimate,
        low=interval.low,
        high=interval.high,
        values=values,
    )


def _accuracy(values: tuple[float, ...]) -> Accuracy:
    interval = mean_interval(values)
    return Accuracy(interval.estimate, interval.low, interval.high, values)


def _share(plan: Plan, name: str, outcomes: dict[str, ArmOutcome]) -> Interval | None:
    if plan.design.gap is None or name in plan.design.gap:
        return None
    small, large = plan.design.gap
    return gap_share(name, small, large, outcomes)


def _claims(plan: Plan, outcomes: dict[str, ArmOutcome], quantities: Quantities) -> tuple[ClaimSummary, ...]:
    claims = plan.design.claims
    return tuple(
        ClaimSummary(
            id=claim.id,
            statement=claim.statement,
            source=claim.source,
            verdict=judged.verdict,
            effect=judged.effect,
            unit=unit(judged.parts[0].test),
            level=judged.level,
            expected=claim.expected,
            parts=judged.parts,
            smallest_detectable=judged.smallest_detectable,
            why=claim.why,
            note=judged.note,
            seeds_to_decide=judged.seeds_to_decide,
            premise=judged.premise,
            caveats=judged.caveats,
        )
        for claim, judged in zip(claims, judge(claims, outcomes, quantities), strict=True)
    )
