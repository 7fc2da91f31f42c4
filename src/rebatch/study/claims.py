"""What does a study claim, and what may be said about it? Claims, outcomes and judgements as data.

A claim is written down before its runs and kept beside them as JSON, so a store can be judged (`judging.py`) without
the code of the study.

To add a kind of test (over another metric, say): give it a struct in `Test`, what it claims in `region` and its effect
in `judging._evidence`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.interval import Interval

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

    A bound left out is infinite. `unit` is for tables; `name` says which number. `left_out` names the quantity that
    counts the diverged runs of a seed that this number could not be made of, `beyond` the one that says (by a 1) that
    in this seed it lies at or beyond an end of what was tried, so that the number is a bound or missing.
    """

    name: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    left_out: str = ""
    beyond: str = ""

    def __post_init__(self) -> None:
        _require_bounds(f"quantity {self.name!r}", self.low, self.high)


class Combination(_Test, frozen=True, tag="combination"):
    """A contrast of more than two arms: the sum of weight x accuracy lies between `low` and `high`.

    In percent points unless `unit` says of what else they are; `name` is for tables. Weights add up to zero, so that
    what lifts all arms alike does not count. A bound left out is infinite. Unlike a `Quantity` that a study works out
    itself, its interval counts the test examples that all seeds share.
    """

    name: str
    weights: tuple[tuple[str, float], ...]
    low: float | None = None
    high: float | None = None
    unit: str = "points"

    def __post_init__(self) -> None:
        _require_bounds(f"combination {self.name!r}", self.low, self.high)
        by_arm = dict(self.weights)
        if not abs(math.fsum(by_arm.values())) <= 1e-9 or not any(by_arm.values()) or len(by_arm) < len(self.weights):
            what = f"the weights of combination {self.name!r} must add up to 0, one for each arm"
            raise RequestError(f"{what}, got {', '.join(f'{name} {weight:g}' for name, weight in self.weights)}")


class AllOf(_Test, frozen=True, tag="all_of"):
    """Every part holds; the first part is the headline whose effect stands for the claim in tables."""

    parts: tuple[Greater | Equivalent | Quantity | Combination, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise RequestError("all_of needs at least one part, got none")


Comparison = Greater | Equivalent | Quantity | Combination
Test = Greater | Equivalent | Quantity | Combination | AllOf
Quantities = Mapping[str, Mapping[int, float]]
"""Numbers of a study by name and seed."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement of the literature or the user's, its test, and the number that was published, if one was.

    `why` gives the reason of the margin and of the number of seeds. `premise` is what the statement takes for granted:
    unless the runs show all of it, the claim is undecided.
    """

    id: str
    statement: str
    source: str
    test: Test
    expected: float | None
    why: str
    premise: tuple[Comparison, ...] = ()

    @property
    def compared(self) -> AllOf:
        """Every comparison that its verdict needs: those of the test, then the premise."""
        return AllOf((*comparisons(self.test), *self.premise))


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
    `seeds_to_decide`: how many seeds would decide with that probability if all effects are what was seen; None where it
    is decided, where that is not known, and beyond `MOST_SEEDS`. `caveats` say what the verdict could not rest on: a
    premise that the runs do not show, diverged runs that a number had to leave out, seeds in which it lies beyond what
    was tried.
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
    seeds_to_decide: int | None = None
    premise: tuple[PartEffect, ...] = ()
    caveats: tuple[str, ...] = ()


# Nobody would run more to decide a claim.
MOST_SEEDS = 1000


def seeds_to_decide(seeds: int | None) -> str:
    """How many seeds it would take, as a clause; the effect seen is uncertain itself, so one digit, rounded up.

    >>> seeds_to_decide(7), seeds_to_decide(131)
    ('about 7 seeds would decide if the effect seen is the true one', \
'about 200 seeds would decide if the effect seen is the true one')
    >>> seeds_to_decide(None)
    'the effect seen lies so near its margin that not even 1,000 seeds would decide'
    """
    if seeds is None:
        return f"the effect seen lies so near its margin that not even {MOST_SEEDS:,} seeds would decide"
    unit = 10 ** (len(str(seeds)) - 1)
    return f"about {-(-seeds // unit) * unit:,} seeds would decide if the effect seen is the true one"


def comparisons(test: Test) -> tuple[Comparison, ...]:
    """The comparisons that a test is made of, itself or its parts."""
    return test.parts if isinstance(test, AllOf) else (test,)


def weights(test: Greater | Equivalent | Combination) -> Mapping[str, float]:
    """What each arm's accuracy counts in a comparison of arms.

    >>> weights(Greater("a", "b"))
    {'a': 1.0, 'b': -1.0}
    """
    return dict(test.weights) if isinstance(test, Combination) else {test.first: 1.0, test.second: -1.0}


def arms_of(test: Test) -> list[str]:
    """The names of the arms that a test compares, each once.

    >>> arms_of(AllOf((Greater("a", "b"), Greater("b", "c"))))
    ['a', 'b', 'c']
    """
    compared = [part for part in comparisons(test) if not isinstance(part, Quantity)]
    return list(dict.fromkeys(name for part in compared for name in weights(part)))


def quantities_of(test: Test) -> list[str]:
    """The names of the quantities that a test speaks about."""
    return [part.name for part in comparisons(test) if isinstance(part, Quantity)]


def unit(test: Comparison) -> str:
    """What an effect is measured in.

    >>> unit(Greater("a", "b")), unit(Quantity("slope", low=0.0, unit="per ln t"))
    ('points', 'per ln t')
    """
    return test.unit if isinstance(test, Quantity | Combination) else "points"


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
        case Quantity(low=low, high=high) | Combination(low=low, high=high):
            return -math.inf if low is None else low, math.inf if high is None else high


def _require_bounds(what: str, low: float | None, high: float | None) -> None:
    bounds = [bound for bound in (low, high) if bound is not None]
    if not bounds or not all(map(math.isfinite, bounds)) or bounds != sorted(set(bounds)):
        raise RequestError(f"{what} needs a finite low or high, low below high, got {low} and {high}")


def _require_two_arms(first: str, second: str) -> None:
    if first == second:
        raise RequestError(f"a test compares two different arms, got {first!r} twice")
