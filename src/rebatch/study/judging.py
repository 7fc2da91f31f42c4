"""From the accuracies of a study's arms, and the numbers it makes of its runs, to the verdict on each of its claims.

The rules, in words and with an example, are in `docs/verdicts.md`. All that follows an effect (Holm, conjunctions,
verdicts) sees only that effect and the open region it should be in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rebatch.interval import Interval
from rebatch.statistics import (
    Contrast,
    crossed_contrast,
    fieller,
    holm_levels,
    paired_contrast,
    seeds_to_detect,
    smallest_detectable,
)
from rebatch.study.claims import (
    MOST_SEEDS,
    ArmOutcome,
    Claim,
    Combination,
    Comparison,
    Judgement,
    PartEffect,
    Quantities,
    Quantity,
    Verdict,
    comparisons,
    region,
    unit,
    weights,
)


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What the runs say about one comparison."""

    test: Comparison
    contrast: Contrast
    seeds: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class _Case:
    """What the runs say about a claim: about each part of its test, and about what it takes for granted."""

    parts: list[_Evidence]
    premise: list[_Evidence]


def judge(
    claims: Sequence[Claim],
    outcomes: Mapping[str, ArmOutcome],
    quantities: Quantities | None = None,
    *,
    alpha: float = 0.05,
) -> list[Judgement]:
    """The verdict on each claim of one study, in the order of the claims.

    The probability of any wrong verdict (a false claim confirmed or a true one refuted) is held at `alpha` over all of
    them by Holm's method. An arm without outcome, or with fewer than two seeds in common, leaves its claim undecided,
    and so does a premise that the runs do not show.
    """
    known = quantities or {}
    cases = [
        _Case(*([_evidence(part, outcomes, known) for part in parts] for parts in (comparisons(c.test), c.premise)))
        for c in claims
    ]
    levels = holm_levels([_p_value(case) for case in cases], alpha=alpha)
    return [_judgement(*each, known) for each in zip(claims, cases, levels, strict=True)]


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
    names = weights(test)
    if missing := [name for name in names if name not in outcomes]:
        return _nothing(test, f"no outcome of {' and '.join(missing)}")
    terms = [(weight, outcomes[name]) for name, weight in names.items()]
    seeds = tuple(sorted(set.intersection(*(set(arm.accuracy) for _, arm in terms))))
    if not seeds:
        return _nothing(test, f"{' and '.join(names)} share no seed")
    contrast, note = _contrast(terms, seeds)
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


_Terms = Sequence[tuple[float, ArmOutcome]]


def _contrast(terms: _Terms, seeds: Sequence[int]) -> tuple[Contrast, str]:
    if len(seeds) > 1 and (differences := _hit_differences(terms, seeds)) is not None:
        return crossed_contrast(differences), f"{len(seeds)} paired seeds crossed with {differences.shape[1]} examples"
    by_seed = np.array([sum(weight * arm.accuracy[seed] for weight, arm in terms) for seed in seeds])
    note = f"{len(seeds)} paired seeds" if len(seeds) > 1 else "a single paired seed, 2 are the least"
    return paired_contrast(np.round(by_seed, _DECIMALS)), note


def _hit_differences(terms: _Terms, seeds: Sequence[int]) -> NDArray[np.float64] | None:
    """Percent points by seed and example, None unless all arms have every seed's hits on the shared test set."""
    total: NDArray[np.float64] | None = None
    for weight, arm in terms:
        if (hits := _hits(arm, seeds)) is None:
            return None
        if total is not None and total.shape != hits.shape:
            raise ValueError(f"arms do not share a test set: {total.shape[1]} and {hits.shape[1]} examples")
        total = weight * hits if total is None else total + weight * hits
    return None if total is None else np.round(100.0 * total, _DECIMALS)


def _hits(arm: ArmOutcome, seeds: Sequence[int]) -> NDArray[np.float64] | None:
    if arm.correct is None or not all(seed in arm.correct for seed in seeds):
        return None
    return np.stack([np.asarray(arm.correct[seed], dtype=np.float64) for seed in seeds])


def _p_value(case: _Case) -> float:
    """Two-sided, twice the smaller of confirming (every part) and refuting (some part, Bonferroni over the parts).

    Either needs the whole premise.
    """
    confirm = max(_p_inside(part) for part in case.parts)
    refute = len(case.parts) * min(_p_outside(part) for part in case.parts)
    return min(1.0, 2.0 * max(min(confirm, refute), *(_p_inside(part) for part in case.premise), 0.0))


def _p_inside(part: _Evidence) -> float:
    low, high = region(part.test)
    return max(part.contrast.p_above(low), part.contrast.p_below(high))


def _p_outside(part: _Evidence) -> float:
    low, high = region(part.test)
    return min(part.contrast.p_below(low), part.contrast.p_above(high))


def _is_shown(part: _Evidence, level: float) -> bool:
    effect, (low, high) = part.contrast.interval(level), region(part.test)
    return low < effect.low and effect.high < high


def _is_excluded(part: _Evidence, level: float) -> bool:
    effect, (low, high) = part.contrast.interval(level), region(part.test)
    return effect.high < low or high < effect.low


def _judgement(claim: Claim, case: _Case, alpha: float, quantities: Quantities) -> Judgement:
    verdict = _verdict(case, alpha)
    level = 1.0 - (alpha if verdict == "confirmed" else alpha / len(case.parts))
    parts, premise = _effects(case.parts, level), _effects(case.premise, 1.0 - alpha)
    caveats = (*_open_premises(case.premise, 1.0 - alpha), *_left_out(claim, quantities))
    return Judgement(
        id=claim.id,
        verdict=verdict,
        effect=parts[0].effect,
        level=level,
        expected=claim.expected,
        parts=parts,
        seeds=parts[0].seeds,
        smallest_detectable=_smallest_detectable(case.parts, alpha) if verdict == "undecided" else None,
        note="; ".join(dict.fromkeys([*(part.note for part in case.parts), *caveats])),
        seeds_to_decide=_seeds_to_decide(case, alpha) if verdict == "undecided" else None,
        premise=premise,
        caveats=caveats,
    )


def _verdict(case: _Case, alpha: float) -> Verdict:
    if not all(_is_shown(part, 1.0 - alpha) for part in case.premise):
        return "undecided"
    if all(_is_shown(part, 1.0 - alpha) for part in case.parts):
        return "confirmed"
    if any(_is_excluded(part, 1.0 - alpha / len(case.parts)) for part in case.parts):
        return "refuted"
    return "undecided"


def _effects(parts: Sequence[_Evidence], level: float) -> tuple[PartEffect, ...]:
    return tuple(PartEffect(test=part.test, effect=part.contrast.interval(level), seeds=part.seeds) for part in parts)


def _open_premises(premise: Sequence[_Evidence], level: float) -> list[str]:
    return [
        f"its premise {'does not hold' if _is_excluded(part, level) else 'is not shown'}: {_name(part.test)}"
        for part in premise
        if not _is_shown(part, level)
    ]


def _left_out(claim: Claim, quantities: Quantities) -> list[str]:
    tests = [test for test in claim.compared.parts if isinstance(test, Quantity)]
    diverged = [_count(name, quantities) for name in dict.fromkeys(test.left_out for test in tests)]
    lost = [f"{count:.0f} diverged runs are left out" for count in diverged if count]
    # The first of those that share it names them all.
    ends = {test.beyond: test.name for test in reversed(tests) if test.beyond and _count(test.beyond, quantities)}
    return lost + [
        f"in {_count(each, quantities):.0f} of {len(quantities[each])} seeds {name} rests on an end of what was tried"
        for each, name in reversed(ends.items())
    ]


def _count(name: str, quantities: Quantities) -> float:
    return sum(quantities.get(name, {}).values())


def _name(test: Comparison) -> str:
    return test.name if isinstance(test, Quantity | Combination) else f"{test.first} - {test.second}"


def _smallest_detectable(evidence: Sequence[_Evidence], alpha: float) -> float:
    # Parts in other units cannot be compared with the headline's.
    contrasts = [part.contrast for part in evidence if unit(part.test) == unit(evidence[0].test)]
    return max(
        smallest_detectable(each.standard_error, each.degrees_of_freedom, alpha, example_error=each.example_error)
        for each in contrasts
    )


def _seeds_to_decide(case: _Case, alpha: float) -> int | None:
    """Enough to confirm where every effect lies inside its region, else to refute one that does not."""
    outside = [part for part in case.parts if _room(part) < 0.0]
    if outside:
        known = [n for part in outside if (n := _seeds_to_see(part, alpha / len(case.parts))) is not None]
        needed = [min(known) if known else None]
    else:
        needed = [_seeds_to_see(part, alpha) for part in case.parts]
    needed += [None if _room(part) < 0.0 else _seeds_to_see(part, alpha) for part in case.premise]
    counts = [count for count in needed if count is not None]
    return max(counts) if len(counts) == len(needed) else None


def _seeds_to_see(part: _Evidence, alpha: float) -> int | None:
    return seeds_to_detect(part.contrast, abs(_room(part)), alpha, most=MOST_SEEDS)


def _room(part: _Evidence) -> float:
    """How far inside its region an effect lies; below zero outside, NaN where there is none."""
    low, high = region(part.test)
    return min(part.contrast.estimate - low, high - part.contrast.estimate)
