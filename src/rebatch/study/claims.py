"""What does a study say about a claim? Claims as data, and the verdict on each from the accuracies of its arms.

A claim is written down before its runs and kept beside them as JSON, so a store can be judged without the code of the
study. The rules, in words and with an example, are in `docs/verdicts.md`.

To add a kind of test (over another metric, say): give it a struct in `Test`, what it claims in `region` and its effect
in `_evidence`. All that follows (Holm, conjunctions, verdicts) sees only an effect and the open region it should be in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.statistics import (
    Contrast,
    Interval,
    crossed_contrast,
    fieller,
    holm_levels,
    paired_contrast,
    smallest_detectable,
)

Verdict = Literal["confirmed", "refuted", "undecided"]
Hits = NDArray[np.bool_] | NDArray[np.float64]


class _Test(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """How tests are written in a store: `type` says which one."""


class Greater(_Test, frozen=True, tag="greater"):
    """accuracy(first) - accuracy(second) > margin, in percent points; a negative margin says "not worse by more"."""

    first: str
    second: str
    margin: float = 0.0

    def __post_init__(self) -> None:
        _require_two_arms(self.first, self.second)
        if not math.isfinite(self.margin):
            raise RequestError(f"margin must be a finite number of percent points, got {self.margin}")


class Equivalent(_Test, frozen=True, tag="equivalent"):
    """|accuracy(first) - accuracy(second)| < margin, in percent points."""

    first: str
    second: str
    margin: float

    def __post_init__(self) -> None:
        _require_two_arms(self.first, self.second)
        if not 0.0 < self.margin < math.inf:
            raise RequestError(f"the margin of an equivalence must be positive and finite, got {self.margin}")


class Quantity(_Test, frozen=True, tag="quantity"):
    """A number that the study makes of each seed's runs lies, on average over seeds, between `low` and `high`.

    A bound left out is infinite. `unit` is for tables; `name` says which number.
    """

    name: str
    low: float | None = None
    high: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if not bounds or not all(map(math.isfinite, bounds)) or bounds != sorted(set(bounds)):
            raise RequestError(
                f"quantity {self.name!r} needs a finite low or high, low below high, got {self.low} and {self.high}"
            )


class AllOf(_Test, frozen=True, tag="all_of"):
    """Every part holds; the first part is the headline whose effect stands for the claim in tables."""

    parts: tuple[Greater | Equivalent | Quantity, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise RequestError("all_of needs at least one part, got none")


Comparison = Greater | Equivalent | Quantity
Test = Greater | Equivalent | Quantity | AllOf
Quantities = Mapping[str, Mapping[int, float]]
"""Numbers of a study by name and seed."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement of the literature or the user's, its test, and the number that was published, if one was.

    `why` gives the reason of the margin and of the number of seeds.
    """

    id: str
    statement: str
    source: str
    test: Test
    expected: float | None
    why: str


@dataclass(frozen=True, kw_only=True)
class ArmOutcome:
    """What an arm reached: test accuracy in percent by seed, a diverged run at chance level (the caller puts that in).

    `correct` is given only where all seeds share one test set: by seed, whether each example was hit, in the order of
    the test set (for a diverged run the chance level, a float, for every example). Its means are the accuracies.
    """

    accuracy: Mapping[int, float]
    correct: Mapping[int, Hits] | None = None

    def __post_init__(self) -> None:
        for seed, accuracy in self.accuracy.items():
            if not 0.0 <= accuracy <= 100.0:
                raise ValueError(
                    f"accuracy is in percent, 0 to 100 (diverged: chance level), got {accuracy}, seed {seed}"
                )
        for seed, hits in (self.correct or {}).items():
            said, seen = self.accuracy.get(seed, math.nan), 100.0 * float(np.mean(hits))
            if not abs(said - seen) <= 1e-4:
                raise ValueError(f"correct and accuracy must agree, got {seen} % and {said} %, seed {seed}")


class PartEffect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of a claim: its effect, in percent points or in its quantity's unit, and its seeds."""

    test: Comparison
    effect: Interval
    seeds: tuple[int, ...]


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The verdict on one claim, with the interval that shows it.

    `effect` is the first part's; it and the parts' are drawn at `level`, which is 95 % after Holm's adjustment over the
    claims (and, unless confirmed, Bonferroni's over the parts), so that verdict and intervals agree.
    `smallest_detectable` is given where undecided: how far beyond its margin the effect must lie to be confirmed with
    probability 0.8 by as many seeds, in the first part's unit (the weakest of the parts that have it).
    """

    id: str
    verdict: Verdict
    effect: Interval
    level: float
    expected: float | None
    parts: tuple[PartEffect, ...]
    seeds: tuple[int, ...]
    smallest_detectable: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What the runs say about one comparison."""

    test: Comparison
    contrast: Contrast
    seeds: tuple[int, ...]
    note: str


def comparisons(test: Test) -> tuple[Comparison, ...]:
    """The comparisons that a test is made of, itself or its parts."""
    return test.parts if isinstance(test, AllOf) else (test,)


def arms_of(test: Test) -> list[str]:
    """The names of the arms that a test compares, each once.

    >>> arms_of(AllOf((Greater("a", "b"), Greater("b", "c"))))
    ['a', 'b', 'c']
    """
    pairs = [part for part in comparisons(test) if not isinstance(part, Quantity)]
    return list(dict.fromkeys(name for part in pairs for name in (part.first, part.second)))


def quantities_of(test: Test) -> list[str]:
    """The names of the quantities that a test speaks about."""
    return [part.name for part in comparisons(test) if isinstance(part, Quantity)]


def unit(test: Comparison) -> str:
    """What an effect is measured in.

    >>> unit(Greater("a", "b")), unit(Quantity("slope", low=0.0, unit="per ln t"))
    ('points', 'per ln t')
    """
    return test.unit if isinstance(test, Quantity) else "points"


def region(test: Comparison) -> tuple[float, float]:
    """The open region of effects that a comparison claims, in percent points or in its quantity's unit.

    >>> region(Greater("a", "b", margin=-0.3)), region(Equivalent("a", "b", margin=0.5))
    ((-0.3, inf), (-0.5, 0.5))
    """
    match test:
        case Greater(margin=margin):
            return margin, math.inf
        case Equivalent(margin=margin):
            return -margin, margin
        case Quantity(low=low, high=high):
            return -math.inf if low is None else low, math.inf if high is None else high


def judge(
    claims: Sequence[Claim],
    outcomes: Mapping[str, ArmOutcome],
    quantities: Quantities | None = None,
    *,
    alpha: float = 0.05,
) -> list[Judgement]:
    """The verdict on each claim of one study, in the order of the claims.

    The probability of any wrong verdict (a false claim confirmed or a true one refuted) is held at `alpha` over all of
    them by Holm's method. An arm without outcome, or with fewer than two seeds in common, leaves its claim undecided.
    """
    known = quantities or {}
    evidence = [[_evidence(part, outcomes, known) for part in comparisons(claim.test)] for claim in claims]
    levels = holm_levels([_p_value(parts) for parts in evidence], alpha=alpha)
    return [_judgement(*each) for each in zip(claims, evidence, levels, strict=True)]


def gap_share(
    arm: str, small: str, large: str, outcomes: Mapping[str, ArmOutcome], level: float = 0.95
) -> Interval | None:
    """Which share of the large-batch gap an arm closes: (arm - large)/(small - large), by Fieller on paired seeds.

    None where the gap is not resolved above zero at `level`. The interval speaks about seeds, not about test examples.
    """
    chosen = [outcomes[name].accuracy for name in (arm, small, large) if name in outcomes]
    seeds = set.intersection(*map(set, chosen)) if len(chosen) == 3 else set()
    if len(seeds) < 2:
        return None
    table = np.array([[accuracy[seed] for seed in sorted(seeds)] for accuracy in chosen])
    closed, gap = np.round(table[:2] - table[2], _DECIMALS).tolist()
    return fieller(closed, gap, level) if sum(gap) > 0.0 else None


# Subtraction leaves 1e-14 where two accuracies are equal; no test set is fine enough to tell 1e-9 percent points.
_DECIMALS = 9


def _evidence(test: Comparison, outcomes: Mapping[str, ArmOutcome], quantities: Quantities) -> _Evidence:
    if isinstance(test, Quantity):
        return _measured(test, quantities.get(test.name, {}))
    if missing := [name for name in (test.first, test.second) if name not in outcomes]:
        return _nothing(test, f"no outcome of {' and '.join(missing)}")
    first, second = outcomes[test.first], outcomes[test.second]
    seeds = tuple(sorted(first.accuracy.keys() & second.accuracy.keys()))
    if not seeds:
        return _nothing(test, f"{test.first} and {test.second} share no seed")
    contrast, note = _contrast(first, second, seeds)
    return _Evidence(test=test, contrast=contrast, seeds=seeds, note=note + _all_equal(contrast, seeds))


def _measured(test: Quantity, by_seed: Mapping[int, float]) -> _Evidence:
    if not by_seed:
        return _nothing(test, f"no value of {test.name}")
    seeds = tuple(sorted(by_seed))
    contrast = paired_contrast([by_seed[seed] for seed in seeds])
    note = f"{len(seeds)} seeds" if len(seeds) > 1 else "a single seed, 2 are the least"
    return _Evidence(test=test, contrast=contrast, seeds=seeds, note=note + _all_equal(contrast, seeds))


def _all_equal(contrast: Contrast, seeds: Sequence[int]) -> str:
    return f", all equal: the sign test on {len(seeds)} seeds decides" if contrast.standard_error == 0.0 else ""


def _nothing(test: Comparison, note: str) -> _Evidence:
    return _Evidence(test=test, contrast=Contrast(math.nan, math.inf, 1.0), seeds=(), note=note)


def _contrast(first: ArmOutcome, second: ArmOutcome, seeds: Sequence[int]) -> tuple[Contrast, str]:
    if len(seeds) > 1 and (differences := _hit_differences(first, second, seeds)) is not None:
        return crossed_contrast(differences), f"{len(seeds)} paired seeds crossed with {differences.shape[1]} examples"
    by_seed = np.array([first.accuracy[seed] - second.accuracy[seed] for seed in seeds])
    note = f"{len(seeds)} paired seeds" if len(seeds) > 1 else "a single paired seed, 2 are the least"
    return paired_contrast(np.round(by_seed, _DECIMALS)), note


def _hit_differences(first: ArmOutcome, second: ArmOutcome, seeds: Sequence[int]) -> NDArray[np.float64] | None:
    """Percent points by seed and example, None unless both arms have every seed's hits on the shared test set."""
    a, b = _hits(first, seeds), _hits(second, seeds)
    if a is None or b is None:
        return None
    if a.shape != b.shape:
        raise ValueError(f"arms do not share a test set: {a.shape[1]} and {b.shape[1]} examples")
    return 100.0 * (a - b)


def _hits(arm: ArmOutcome, seeds: Sequence[int]) -> NDArray[np.float64] | None:
    if arm.correct is None or not all(seed in arm.correct for seed in seeds):
        return None
    return np.stack([np.asarray(arm.correct[seed], dtype=np.float64) for seed in seeds])


def _p_value(parts: Sequence[_Evidence]) -> float:
    """Two-sided, twice the smaller of confirming (every part) and refuting (some part, Bonferroni over the parts)."""
    confirm = max(_p_inside(part) for part in parts)
    refute = len(parts) * min(_p_outside(part) for part in parts)
    return min(1.0, 2.0 * min(confirm, refute))


def _p_inside(part: _Evidence) -> float:
    low, high = region(part.test)
    return max(part.contrast.p_above(low), part.contrast.p_below(high))


def _p_outside(part: _Evidence) -> float:
    low, high = region(part.test)
    return min(part.contrast.p_below(low), part.contrast.p_above(high))


def _lies_inside(effect: Interval, test: Comparison) -> bool:
    low, high = region(test)
    return low < effect.low and effect.high < high


def _lies_outside(effect: Interval, test: Comparison) -> bool:
    low, high = region(test)
    return effect.high < low or high < effect.low


def _judgement(claim: Claim, evidence: Sequence[_Evidence], alpha: float) -> Judgement:
    verdict = _verdict(evidence, alpha)
    level = 1.0 - (alpha if verdict == "confirmed" else alpha / len(evidence))
    parts = tuple(
        PartEffect(test=part.test, effect=part.contrast.interval(level), seeds=part.seeds) for part in evidence
    )
    return Judgement(
        id=claim.id,
        verdict=verdict,
        effect=parts[0].effect,
        level=level,
        expected=claim.expected,
        parts=parts,
        seeds=parts[0].seeds,
        smallest_detectable=_smallest_detectable(evidence, alpha) if verdict == "undecided" else None,
        note="; ".join(dict.fromkeys(part.note for part in evidence)),
    )


def _verdict(evidence: Sequence[_Evidence], alpha: float) -> Verdict:
    if all(_lies_inside(part.contrast.interval(1.0 - alpha), part.test) for part in evidence):
        return "confirmed"
    if any(_lies_outside(part.contrast.interval(1.0 - alpha / len(evidence)), part.test) for part in evidence):
        return "refuted"
    return "undecided"


def _smallest_detectable(evidence: Sequence[_Evidence], alpha: float) -> float:
    # Parts in other units cannot be compared with the headline's.
    contrasts = [part.contrast for part in evidence if unit(part.test) == unit(evidence[0].test)]
    return max(
        smallest_detectable(each.standard_error, each.degrees_of_freedom, alpha, example_error=each.example_error)
        for each in contrasts
    )


def _require_two_arms(first: str, second: str) -> None:
    if first == second:
        raise RequestError(f"a test compares two different arms, got {first!r} twice")
