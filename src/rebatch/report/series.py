"""From the finished runs of a study to the numbers that its figures show: means over seeds with their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rebatch.batching import examples_seen, measured_steps, total_steps
from rebatch.interval import Interval
from rebatch.recipe import Recipe
from rebatch.report.summary import ClaimSummary
from rebatch.statistics import mean_interval
from rebatch.study.claims import Combination, Comparison, Equivalent, Greater, Quantity, Verdict, region, unit
from rebatch.study.plan import Plan
from rebatch.study.store import Result, Store

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run: its result and its rows."""

    seed: int
    result: Result
    rows: Rows

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent; only of runs that classify something."""
        assert self.result.accuracy is not None
        return self.result.accuracy

    @property
    def diverged(self) -> bool:
        """Whether the run ended before its budget because a loss was not finite."""
        return self.result.status == "diverged"


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """The finished runs of one arm, by seed; runs that are missing or still going on are not in it."""

    name: str
    recipe: Recipe
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ArmAccuracy:
    """Test accuracy of an arm in percent; `mean` is `None` where no run has finished."""

    name: str
    mean: Interval | None
    points: tuple[RunRecord, ...]

    @property
    def diverged(self) -> int:
        """How many of the runs diverged; they count at chance level."""
        return sum(run.diverged for run in self.points)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A mean over `n` runs, with its 95 % interval, at some numbers of steps and of examples seen."""

    name: str
    n: int
    steps: tuple[int, ...]
    examples: tuple[int, ...]
    means: tuple[Interval, ...]


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """One comparison of a claim: `part` of `parts` (the first is the headline), with the region that it claims."""

    claim: str
    statement: str
    verdict: Verdict
    part: int
    parts: int
    test: Comparison
    effect: Interval
    level: float
    claimed: tuple[float, float]
    published: float | None


def read_arms(plan: Plan, store: Store) -> list[ArmRecord]:
    """The finished runs of every arm of `plan`."""
    return [
        ArmRecord(
            name=arm.name,
            recipe=arm.recipe,
            runs=tuple(
                RunRecord(seed=seed, result=result, rows=store.run(plan.spec(arm, seed)).rows())
                for seed, result in sorted(store.results(plan, arm.name).items())
            ),
        )
        for arm in plan.design.arms
        if not arm.candidate
    ]


def arm_accuracy(arm: ArmRecord) -> ArmAccuracy:
    """Mean test accuracy at the last step with its 95 % interval; a diverged run counts at chance level."""
    points = tuple(run for run in arm.runs if run.result.accuracy is not None)
    values = [run.accuracy for run in points]
    return ArmAccuracy(name=arm.name, mean=mean_interval(values) if values else None, points=points)


def error_curve(arm: ArmRecord, *, examples: int, evaluations: int, chance: float) -> Curve:
    """Validation error in percent at the evaluated steps, which all runs of an arm share.

    From where a run diverged on it counts with the error of a guess, 100 - chance, so that every step of the curve
    speaks about the same runs.
    """
    _, steps = measured_steps(total_steps(arm.recipe, examples), evaluations)
    runs = [_errors(run, steps, 100.0 - chance) for run in arm.runs]
    return _curve(arm, runs, examples)


def distance_curve(arm: ArmRecord, *, examples: int) -> Curve:
    """Weight distance at every row; runs that diverged are left out as a whole: they have none to the end."""
    return column_curve(arm, "weight_distance", examples=examples)


def column_curve(arm: ArmRecord, name: str, *, examples: int) -> Curve:
    """A column of the rows at every step that has it; runs that diverged are left out as a whole."""
    runs = [_column(run.rows, name) for run in arm.runs if not run.diverged]
    return _curve(arm, runs, examples)


def geometric_interval(values: Sequence[float]) -> Interval:
    """The geometric mean of positive numbers with its 95 % interval, which is positive too.

    >>> geometric_interval([1.0, 4.0]).estimate
    2.0
    """
    logs = mean_interval([math.log(value) for value in values])
    bounds = (math.exp(end) if math.isfinite(end) else end for end in (logs.low, logs.high))
    return Interval(math.exp(logs.estimate), *bounds)


def effect_rows(claims: Sequence[ClaimSummary]) -> list[EffectRow]:
    """One row per comparison of arms of every claim, in percent points; what has other units is left out."""
    return [
        EffectRow(
            claim=claim.id,
            statement=claim.statement,
            verdict=claim.verdict,
            part=number,
            parts=len(claim.parts),
            test=part.test,
            effect=part.effect,
            level=claim.level,
            claimed=region(part.test),
            published=claim.expected if number == 1 else None,
        )
        for claim in claims
        for number, part in enumerate(claim.parts, start=1)
        if math.isfinite(part.effect.estimate) and compares_arms(part.test)
    ]


def compares_arms(test: Comparison) -> bool:
    """Whether its effect is a difference of accuracies in percent points."""
    return not isinstance(test, Quantity) and unit(test) == "points"


def comparison(test: Comparison, named: Callable[[str], str] = str) -> str:
    """What a comparison claims, in symbols and percent points; `named` says how an arm is called.

    >>> comparison(Greater("b", "a", margin=-0.3)), comparison(Equivalent("b", "a", margin=0.5))
    ('b - a > -0.3', '|b - a| < 0.5')
    """
    match test:
        case Greater(first=first, second=second, margin=margin):
            return f"{named(first)} - {named(second)} > {margin:g}"
        case Equivalent(first=first, second=second, margin=margin):
            return f"|{named(first)} - {named(second)}| < {margin:g}"
        case Quantity(name=name, low=low, high=high) | Combination(name=name, low=low, high=high):
            below, above = ("" if low is None else f"{low:.4g} < "), ("" if high is None else f" < {high:.4g}")
            return f"{below}{name}{above}"


def _errors(run: RunRecord, steps: Sequence[int], chance_error: float) -> dict[int, float]:
    errors = {step: 100.0 - accuracy for step, accuracy in _column(run.rows, "validation_accuracy").items()}
    if not run.diverged or not run.rows:  # a run that was imported has left no rows
        return errors
    stopped = int(run.rows[-1]["step"])
    return {
        step: errors[step] if step < stopped else chance_error for step in steps if step >= stopped or step in errors
    }


def _column(rows: Rows, name: str) -> dict[int, float]:
    """The finite values of a column by step."""
    return {int(row["step"]): row[name] for row in rows if math.isfinite(row.get(name, math.nan))}


def _curve(arm: ArmRecord, runs: Sequence[Mapping[int, float]], examples: int) -> Curve:
    steps = sorted(set().union(*runs))
    return Curve(
        name=arm.name,
        n=sum(bool(run) for run in runs),
        steps=tuple(steps),
        examples=tuple(examples_seen(step, examples, arm.recipe) for step in steps),
        means=tuple(mean_interval([run[step] for run in runs if step in run]) for step in steps),
    )
