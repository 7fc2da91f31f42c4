"""Verdicts: p-values and intervals agree, wrong verdicts are rare, and a claim survives its way through JSON."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.statistics import Contrast, crossed_contrast, paired_contrast
from rebatch.study.claims import (
    AllOf,
    ArmOutcome,
    Claim,
    Combination,
    Comparison,
    Equivalent,
    Greater,
    Judgement,
    Quantity,
    Test,
    Verdict,
    arms_of,
    comparisons,
    quantities_of,
    region,
    unit,
    weights,
)
from rebatch.study.judging import gap_share, judge

INFINITE = (-math.inf, math.inf)


def claim(test: Test, name: str = "c") -> Claim:
    return Claim(id=name, statement="s", source="Hoffer et al., 2017", test=test, expected=0.24, why="5 seeds: enough")


def arm(*accuracies: float) -> ArmOutcome:
    return ArmOutcome(accuracy=dict(enumerate(accuracies)))


def arm_of_hits(hits: NDArray[np.bool_]) -> ArmOutcome:
    """One row of hits per seed."""
    return ArmOutcome(
        accuracy={seed: 100.0 * float(row.mean()) for seed, row in enumerate(hits)}, correct=dict(enumerate(hits))
    )


def judge_one(test: Test, outcomes: Mapping[str, ArmOutcome]) -> Judgement:
    (judgement,) = judge([claim(test)], outcomes)
    return judgement


BASE = arm(97.0, 97.2, 96.9, 97.1, 97.4)
ARMS = {
    "small": BASE,
    "same": arm(97.05, 97.15, 96.95, 97.1, 97.35),
    "worse": arm(96.0, 96.1, 96.0, 96.2, 96.3),
    "wild": arm(97.0, 99.5, 93.0, 98.0, 96.0),
}

# One row: test, verdict, level of the intervals
CASES: list[tuple[Test, Verdict, float]] = [
    (Greater("small", "worse"), "confirmed", 0.95),
    (Greater("small", "worse", margin=0.8), "confirmed", 0.95),
    (Greater("small", "worse", margin=1.2), "refuted", 0.95),
    (Greater("worse", "small"), "refuted", 0.95),
    (Greater("same", "small"), "undecided", 0.95),
    (Greater("same", "small", margin=-0.3), "confirmed", 0.95),
    (Greater("wild", "small", margin=-0.3), "undecided", 0.95),
    (Equivalent("same", "small", margin=0.3), "confirmed", 0.95),
    (Equivalent("worse", "small", margin=0.3), "refuted", 0.95),
    (Equivalent("small", "worse", margin=0.3), "refuted", 0.95),
    (Equivalent("wild", "small", margin=0.3), "undecided", 0.95),
    (Equivalent("worse", "small", margin=1.0), "undecided", 0.95),
    (AllOf((Greater("small", "worse"), Equivalent("same", "small", margin=0.3))), "confirmed", 0.95),
    (AllOf((Greater("small", "worse"), Greater("wild", "small"))), "undecided", 0.975),
    (AllOf((Greater("wild", "small"), Greater("worse", "small"))), "refuted", 0.975),
]


@pytest.mark.parametrize(("test", "verdict", "level"), CASES)
def test_verdicts_of_known_cases(test: Test, verdict: Verdict, level: float) -> None:
    judgement = judge_one(test, ARMS)
    assert judgement.verdict == verdict
    assert judgement.level == pytest.approx(level)
    assert judgement.effect == judgement.parts[0].effect
    assert (judgement.smallest_detectable is not None) == (verdict == "undecided")
    assert judgement.expected == 0.24
    assert judgement.seeds == (0, 1, 2, 3, 4)


def test_effect_is_the_paired_t_interval_of_scipy() -> None:
    first, second = (list(ARMS[name].accuracy.values()) for name in ("small", "worse"))
    slow = stats.ttest_rel(first, second).confidence_interval(0.95)
    effect = judge_one(Greater("small", "worse"), ARMS).effect
    assert (effect.low, effect.high) == pytest.approx((slow.low, slow.high), rel=1e-9)


def test_undecided_says_the_smallest_effect_that_as_many_seeds_could_have_seen() -> None:
    judgement = judge_one(Greater("wild", "small"), ARMS)
    differences = np.array(list(ARMS["wild"].accuracy.values())) - list(BASE.accuracy.values())
    detectable = judgement.smallest_detectable
    assert detectable is not None
    effect = detectable / (differences.std(ddof=1) / math.sqrt(5))
    assert stats.nct.sf(stats.t.isf(0.025, 4), 4, effect) == pytest.approx(0.8, abs=1e-5)


def test_several_claims_are_adjusted_by_holm() -> None:
    tests: list[Test] = [Greater("wild", "small"), Greater("small", "worse"), Equivalent("same", "small", margin=0.3)]
    judgements = judge([claim(test, str(i)) for i, test in enumerate(tests)], ARMS)
    assert [each.id for each in judgements] == ["0", "1", "2"]
    assert [each.verdict for each in judgements] == ["undecided", "confirmed", "confirmed"]
    assert [each.level for each in judgements] == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])


# Pairs


def test_arms_are_compared_on_the_seeds_they_share() -> None:
    outcomes = {
        "a": ArmOutcome(accuracy={1: 97.0, 2: 97.5, 3: 98.1}),
        "b": ArmOutcome(accuracy={3: 97.0, 2: 96.5, 9: 0}),
    }
    judgement = judge_one(Greater("a", "b"), outcomes)
    assert judgement.seeds == (2, 3)
    assert judgement.effect.estimate == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("outcomes", "note"),
    [
        ({}, "no outcome of a and b"),
        ({"b": arm(97.0, 98.0)}, "no outcome of a"),
        ({"a": ArmOutcome(accuracy={7: 97.0}), "b": arm(97.0, 98.0)}, "a and b share no seed"),
        ({"a": arm(97.0), "b": arm(90.0, 91.0)}, "a single paired seed, 2 are the least"),
    ],
)
def test_fewer_than_two_pairs_leave_a_claim_undecided(outcomes: dict[str, ArmOutcome], note: str) -> None:
    tests: list[Test] = [Greater("a", "b"), Equivalent("a", "b", 50.0), AllOf((Greater("a", "b"),))]
    for test in tests:
        judgement = judge_one(test, outcomes)
        assert (judgement.verdict, judgement.note) == ("undecided", note)
        assert (judgement.effect.low, judgement.effect.high) == INFINITE
        assert judgement.smallest_detectable == math.inf


def test_equal_differences_are_seen_as_equal_despite_rounding() -> None:
    outcomes = {"a": arm(97.01, 9.35, 33.34), "b": arm(97.0, 9.34, 33.33)}  # one image of 10,000
    judgement = judge_one(Greater("a", "b"), outcomes)
    nearly = {"a": arm(97.1, 97.2, math.nextafter(97.4, 98.0)), "b": arm(97.1, 97.2, 97.4)}
    assert judgement.verdict == judge_one(Greater("a", "b", margin=-0.001), nearly).verdict == "undecided"
    assert judgement.note == "3 paired seeds, all equal: the sign test on 3 seeds decides"
    six = {name: arm(*[*outcome.accuracy.values()] * 2) for name, outcome in outcomes.items()}
    assert judge_one(Greater("a", "b"), six).verdict == "confirmed"


# Shared test sets


def test_a_shared_test_set_crosses_seeds_and_examples() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((2, 3, 50)) < [[[0.8]], [[0.6]]]
    outcomes = {"a": arm_of_hits(hits[0]), "b": arm_of_hits(hits[1])}
    judgement = judge_one(Greater("a", "b"), outcomes)
    assert judgement.effect == crossed_contrast(100.0 * (hits[0].astype(float) - hits[1])).interval(judgement.level)
    assert judgement.note == "3 paired seeds crossed with 50 examples"
    one_sided = outcomes | {"b": ArmOutcome(accuracy=outcomes["b"].accuracy)}
    assert judge_one(Greater("a", "b"), one_sided).note == "3 paired seeds"


def test_a_combination_of_arms_crosses_seeds_and_examples_too() -> None:
    hits = np.random.default_rng(1).random((3, 4, 60)) < [[[0.9]], [[0.6]], [[0.7]]]
    outcomes = {name: arm_of_hits(each) for name, each in zip("abc", hits, strict=True)}
    a, b, c = hits.astype(float)
    judgement = judge_one(Combination("left", (("a", 0.8), ("b", 0.2), ("c", -1.0)), high=9.0), outcomes)
    seen, by_hand = judgement.effect, crossed_contrast(100.0 * (0.8 * a + 0.2 * b - c)).interval(judgement.level)
    assert (seen.estimate, seen.low, seen.high) == pytest.approx((by_hand.estimate, by_hand.low, by_hand.high))
    assert judgement.note == "4 paired seeds crossed with 60 examples"
    assert judge_one(Combination("left", (("a", 0.8), ("b", 0.2), ("d", -1.0)), high=9.0), outcomes).note == (
        "no outcome of d"
    )


def test_two_arms_with_weights_of_one_are_a_difference() -> None:
    by_pair = judge_one(Greater("small", "worse", 0.8), ARMS)
    named = judge_one(Combination("difference", (("small", 1.0), ("worse", -1.0)), low=0.8), ARMS)
    assert (named.effect, named.verdict) == (by_pair.effect, by_pair.verdict)


def test_equal_sums_are_seen_as_equal_despite_rounding() -> None:
    hits = np.array([[True, False, True, True], [False, True, True, True]])
    outcomes = {name: arm_of_hits(hits) for name in "abc"}
    judgement = judge_one(Combination("none", (("a", 0.3), ("b", -0.1), ("c", -0.2)), low=-0.001), outcomes)
    assert judgement.note.endswith("all equal: the sign test on 2 seeds decides")


def test_a_diverged_run_may_hit_every_example_at_chance() -> None:
    hits = np.array([[True, True, False, True], [True, False, True, True]])
    diverged = ArmOutcome(accuracy={0: 75.0, 1: 10.0}, correct={0: hits[0], 1: np.full(4, 0.1)})
    assert judge_one(Greater("a", "b"), {"a": arm_of_hits(hits), "b": diverged}).effect.estimate == pytest.approx(32.5)


def test_arms_with_different_test_sets_are_refused() -> None:
    outcomes = {"a": arm_of_hits(np.ones((2, 5), bool)), "b": arm_of_hits(np.ones((2, 7), bool))}
    with pytest.raises(ValueError, match="do not share a test set: 5 and 7 examples"):
        judge_one(Greater("a", "b"), outcomes)


# P-values and intervals agree, errors are rare


def p_values(test: Test, contrasts: Sequence[Contrast]) -> tuple[float, float]:
    """One-sided p-values for confirming (intersection-union) and refuting (Bonferroni), from the definitions."""
    inside, outside = [], []
    for part, contrast in zip(comparisons(test), contrasts, strict=True):
        low, high = region(part)
        inside.append(max(contrast.p_above(low), contrast.p_below(high)))
        outside.append(min(contrast.p_below(low), contrast.p_above(high)))
    return max(inside), min(1.0, len(outside) * min(outside))


def holm_verdicts(pairs: Sequence[tuple[float, float]], alpha: float = 0.05) -> list[Verdict]:
    """Step down the claims by their two-sided p-value; the smaller of both sides gives the verdict."""
    verdicts: list[Verdict] = ["undecided"] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: min(pairs[i]))
    for left, i in zip(range(len(pairs), 0, -1), order, strict=True):
        if not 2 * min(pairs[i]) < alpha / left:
            break
        verdicts[i] = "confirmed" if pairs[i][0] < pairs[i][1] else "refuted"
    return verdicts


MIXED_TESTS: list[Test] = [
    Greater("a", "b"),
    Greater("c", "a", margin=-0.5),
    Equivalent("a", "c", margin=0.8),
    AllOf((Greater("a", "b", margin=-0.4), Equivalent("b", "c", margin=1.5), Greater("a", "c"))),
    AllOf((Greater("c", "b"),)),
    Combination("half", (("a", 0.5), ("b", -1.0), ("c", 0.5)), low=0.2),
]


@pytest.mark.parametrize("shared_test_set", [False, True])
def test_verdicts_by_p_values_equal_verdicts_by_intervals(shared_test_set: bool) -> None:
    rng = np.random.default_rng(21)
    seen: dict[Verdict, int] = {"confirmed": 0, "refuted": 0, "undecided": 0}
    for _ in range(200):
        seeds = int(rng.integers(2, 8))
        chance = np.clip(0.8 + rng.normal(0, [0.01, 0.05, 0.15][seeds % 3], (3, 1, 1)), 0, 1)
        hits = rng.random((3, seeds, 400)) < chance + rng.normal(0, 0.1, (1, seeds, 400))
        outcomes = {name: arm_of_hits(hits[i]) for i, name in enumerate("abc")}
        if not shared_test_set:
            outcomes = {name: ArmOutcome(accuracy=outcome.accuracy) for name, outcome in outcomes.items()}
        differences = {
            part: 100.0 * sum(weight * hits["abc".index(name)] for name, weight in weights(part).items())
            for test in MIXED_TESTS
            for part in comparisons(test)
            if not isinstance(part, Quantity)
        }
        contrasts: dict[Comparison, Contrast] = {
            part: crossed_contrast(table) if shared_test_set else paired_contrast(np.round(table.mean(1), 9))
            for part, table in differences.items()
        }
        by_p = holm_verdicts([p_values(test, [contrasts[p] for p in comparisons(test)]) for test in MIXED_TESTS])
        by_interval = [each.verdict for each in judge([claim(test) for test in MIXED_TESTS], outcomes)]
        assert by_p == by_interval
        for verdict in by_interval:
            seen[verdict] += 1
    assert min(seen.values()) > 30


def lies_inside(effect: Interval, low: float, high: float) -> bool:
    return low < effect.low and effect.high < high


def test_the_intervals_shown_explain_the_verdict() -> None:
    rng = np.random.default_rng(22)
    for _ in range(200):
        outcomes = {name: arm(*(80 + rng.normal(mean, 1.0, 5))) for name, mean in zip("abc", (0, -2, 1), strict=True)}
        for judgement in judge([claim(test) for test in MIXED_TESTS], outcomes):
            inside = [lies_inside(part.effect, *region(part.test)) for part in judgement.parts]
            bounds = [(part.effect, *region(part.test)) for part in judgement.parts]
            outside = [effect.high < low or high < effect.low for effect, low, high in bounds]
            assert all(inside) == (judgement.verdict == "confirmed")
            assert any(outside) == (judgement.verdict == "refuted")


BOUNDARY_TESTS: list[Test] = [
    Greater("a", "b"),
    Greater("c", "d", margin=-1.0),
    Equivalent("d", "e", margin=2.0),
    AllOf((Greater("f", "g"), Greater("g", "h"))),
    AllOf((Greater("i", "j", margin=0.5), Equivalent("k", "l", margin=1.0))),
]
BOUNDARY_MEANS = dict(zip("abcdefghijkl", (0, 0, -1, 0, -2, 0, 0, 0, 0.5, 0, 1, 0), strict=True))


@pytest.mark.parametrize("seeds", [3, 5])
def test_any_wrong_verdict_among_five_claims_at_their_boundary_is_rarer_than_one_in_twenty(seeds: int) -> None:
    # Every effect lies on its margin. Both decisions count as wrong: a hair to either side makes each of them so.
    rng, n, wrong = np.random.default_rng(seeds), 2500, 0
    claims = [claim(test) for test in BOUNDARY_TESTS]
    for _ in range(n):
        effect_of_seed = rng.normal(0, 0.3, seeds)
        outcomes = {
            name: arm(*(80 + mean + effect_of_seed + rng.normal(0, 0.3, seeds)))
            for name, mean in BOUNDARY_MEANS.items()
        }
        wrong += any(judgement.verdict != "undecided" for judgement in judge(claims, outcomes))
    assert (wrong / n - 0.05) / math.sqrt(0.05 * 0.95 / n) < 4


# The share of the gap


def test_gap_share_is_a_ratio_of_paired_means() -> None:
    outcomes = {
        "small": arm(97.0, 97.2, 96.9),
        "large": arm(94.0, 94.3, 93.8),
        "lr": ArmOutcome(accuracy={0: 95.5, 1: 95.8, 2: 95.3, 8: 1.0}),
    }
    share = gap_share("lr", "small", "large", outcomes)
    assert share is not None
    assert share.estimate == pytest.approx(4.5 / 9.0)
    assert share.low < 0.5 < share.high
    whole = gap_share("small", "small", "large", outcomes)
    assert whole is not None
    assert (whole.estimate, whole.low, whole.high) == pytest.approx((1.0, 1.0, 1.0))


def test_there_is_no_share_of_a_gap_that_is_not_resolved() -> None:
    assert gap_share("worse", "same", "small", ARMS) is None  # no gap seen
    assert gap_share("same", "worse", "small", ARMS) is None  # a resolved gap, but below zero
    assert gap_share("same", "small", "absent", ARMS) is None
    assert gap_share("same", "small", "one", ARMS | {"one": arm(90.0)}) is None


# Quantities


MEASURED = {
    "slope": dict(enumerate([1.1, 1.3, 1.2, 1.4, 1.2])),
    "alike": dict(enumerate([2.0] * 6)),
    "few": {0: 1.0},
    "wild": dict(enumerate([5.0, -9.0, 14.0, 0.0, 3.0])),
}

# One row: test, verdict, level of the intervals
QUANTITY_CASES: list[tuple[Test, Verdict, float]] = [
    (Quantity("slope", low=1.0), "confirmed", 0.95),
    (Quantity("slope", high=1.0), "refuted", 0.95),
    (Quantity("slope", low=1.0, high=1.5), "confirmed", 0.95),
    (Quantity("slope", low=1.2, high=1.3), "undecided", 0.95),
    (Quantity("slope", low=1.5, high=9.0), "refuted", 0.95),
    (Quantity("wild", low=0.0), "undecided", 0.95),
    (Quantity("alike", low=1.9), "confirmed", 0.95),
    (Quantity("alike", high=1.9), "refuted", 0.95),
    (Quantity("few", low=0.0), "undecided", 0.95),
    (Quantity("absent", low=0.0), "undecided", 0.95),
    (AllOf((Quantity("slope", low=1.0), Greater("small", "worse"))), "confirmed", 0.95),
    (AllOf((Greater("small", "worse"), Quantity("slope", high=1.0))), "refuted", 0.975),
    (AllOf((Greater("small", "worse"), Quantity("wild", low=0.0))), "undecided", 0.975),
]


@pytest.mark.parametrize(("test", "verdict", "level"), QUANTITY_CASES)
def test_a_quantity_is_judged_by_the_mean_over_its_seeds(test: Test, verdict: Verdict, level: float) -> None:
    (judgement,) = judge([claim(test)], ARMS, MEASURED)
    assert judgement.verdict == verdict
    assert judgement.level == pytest.approx(level)
    assert (judgement.smallest_detectable is not None) == (verdict == "undecided")


def test_the_interval_of_a_quantity_is_the_t_interval_of_scipy() -> None:
    (judgement,) = judge([claim(Quantity("slope", low=0.0))], {}, MEASURED)
    slow = stats.ttest_1samp(list(MEASURED["slope"].values()), 0.0).confidence_interval(0.95)
    assert (judgement.effect.low, judgement.effect.high) == pytest.approx((slow.low, slow.high), rel=1e-9)
    assert judgement.effect.estimate == pytest.approx(1.24)
    assert judgement.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("slope", "5 seeds"),
        ("few", "a single seed, 2 are the least"),
        ("absent", "no value of absent"),
        ("alike", "6 seeds, all equal: the sign test on 6 seeds decides"),
    ],
)
def test_what_a_quantity_stands_on_is_said(name: str, note: str) -> None:
    assert judge([claim(Quantity(name, low=0.0))], {}, MEASURED)[0].note == note


def test_quantities_and_accuracies_are_adjusted_together_by_holm() -> None:
    tests: list[Test] = [Quantity("wild", low=0.0), Greater("small", "worse"), Quantity("slope", low=1.0)]
    judgements = judge([claim(test, str(i)) for i, test in enumerate(tests)], ARMS, MEASURED)
    assert [each.verdict for each in judgements] == ["undecided", "confirmed", "confirmed"]
    p = stats.ttest_1samp(list(MEASURED["slope"].values()), 1.0).pvalue
    assert 0.001 < p < 0.025  # the second clearest: judged at half of 5 %
    assert [each.level for each in judgements] == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])


def test_the_smallest_effect_is_told_in_the_headline_s_unit() -> None:
    points, aic = Greater("wild", "small"), Quantity("wild", low=0.0, unit="AIC")
    both = [judge([claim(AllOf(parts))], ARMS, MEASURED)[0] for parts in ((points, aic), (aic, points))]
    alone = [judge([claim(AllOf((part, part)))], ARMS, MEASURED)[0] for part in (points, aic)]
    assert [each.smallest_detectable for each in both] == [each.smallest_detectable for each in alone]
    assert both[0].smallest_detectable != both[1].smallest_detectable
    two = AllOf((Greater("same", "small"), Greater("wild", "small")))  # one unit: the weakest part
    assert judge([claim(two)], ARMS, MEASURED)[0].smallest_detectable == alone[0].smallest_detectable


# Premises


@pytest.mark.parametrize(
    ("test", "premise", "verdict", "caveats"),
    [
        (Greater("small", "worse"), Quantity("slope", low=1.0), "confirmed", ()),
        (Greater("worse", "small"), Quantity("slope", low=1.0), "refuted", ()),
        (Greater("small", "worse"), Quantity("slope", high=1.0), "undecided", ("its premise does not hold: slope",)),
        (Greater("worse", "small"), Quantity("slope", high=1.0), "undecided", ("its premise does not hold: slope",)),
        (Greater("small", "worse"), Quantity("wild", low=0.0), "undecided", ("its premise is not shown: wild",)),
        (Greater("small", "worse"), Quantity("absent", low=0.0), "undecided", ("its premise is not shown: absent",)),
        (
            Quantity("slope", low=1.0),
            Greater("worse", "small"),
            "undecided",
            ("its premise does not hold: worse - small",),
        ),
    ],
)
def test_a_claim_is_decided_only_where_its_premise_is_shown(
    test: Test, premise: Comparison, verdict: Verdict, caveats: tuple[str, ...]
) -> None:
    assumed = msgspec.structs.replace(claim(test), premise=(premise,))
    (judgement,) = judge([assumed], ARMS, MEASURED)
    (bare,) = judge([claim(test)], ARMS, MEASURED)
    assert (judgement.verdict, judgement.caveats) == (verdict, caveats)
    assert (judgement.effect, judgement.parts, bare.premise) == (bare.effect, bare.parts, ())
    assert [each.test for each in judgement.premise] == [premise]
    assert judgement.note == "; ".join([bare.note, *caveats])
    assert (judgement.smallest_detectable is None) == (verdict != "undecided")


def test_a_claim_whose_premise_is_open_does_not_make_others_of_the_study_easier() -> None:
    other = claim(Greater("small", "worse"), "other")
    open_ = msgspec.structs.replace(claim(Greater("small", "worse")), premise=(Quantity("wild", low=0.0),))
    levels = [each.level for each in judge([open_, other], ARMS, MEASURED)]
    assert levels == pytest.approx([0.95, 0.975])


def test_what_a_verdict_compares_is_its_test_and_its_premise() -> None:
    assumed = msgspec.structs.replace(claim(Greater("a", "b")), premise=(Quantity("slope", low=0.0), Greater("c", "a")))
    assert (arms_of(assumed.compared), quantities_of(assumed.compared)) == (["a", "b", "c"], ["slope"])


# What it would take


def test_more_seeds_would_decide_where_the_effect_lies_off_its_margin() -> None:
    judgement = judge_one(Greater("wild", "small"), ARMS)  # -0.42 points, the differences scatter by 2.4
    differences = np.array(list(ARMS["wild"].accuracy.values())) - list(BASE.accuracy.values())
    seeds = judgement.seeds_to_decide
    assert seeds is not None
    for count, enough in ((seeds, True), (seeds - 1, False)):
        effect = abs(differences.mean()) / (differences.std(ddof=1) / math.sqrt(count))
        power = stats.nct.sf(stats.t.isf(0.025, count - 1), count - 1, effect)
        assert bool(power >= 0.8) is enough


def test_every_part_must_be_seen_to_confirm_and_one_to_refute() -> None:
    wild, slope = Quantity("wild", low=0.0), Quantity("slope", low=1.2)
    alone = [judge([claim(part)], {}, MEASURED)[0].seeds_to_decide for part in (wild, slope)]
    assert None not in alone
    assert judge([claim(AllOf((wild, slope)))], {}, MEASURED)[0].seeds_to_decide == max(filter(None, alone))
    outside = AllOf((Quantity("wild", high=0.0), slope))  # only the first lies outside: it must be seen at half of 5 %
    refuting = judge([claim(outside)], {}, MEASURED)[0].seeds_to_decide
    assert refuting is not None
    assert refuting > (alone[0] or 0)


@pytest.mark.parametrize(
    "test",
    [
        Greater("small", "worse"),  # decided
        Quantity("few", low=0.0),
        Quantity("absent", low=0.0),
        Quantity("slope", low=1.2399),  # on its margin: more than a thousand
    ],
)
def test_how_many_seeds_it_would_take_is_not_always_known(test: Test) -> None:
    assert judge([claim(test)], ARMS, MEASURED)[0].seeds_to_decide is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_were_all_equal_need_as_many_as_the_sign_test_asks_for(seeds: int) -> None:
    def of(count: int) -> Judgement:
        same = arm(*np.linspace(90.0, 91.0, count))
        return judge_one(Equivalent("a", "b", margin=0.3), {"a": same, "b": same})

    assert of(seeds).verdict == "undecided"
    needed = of(seeds).seeds_to_decide
    assert needed == 6
    assert [of(count).verdict for count in (needed - 1, needed)] == ["undecided", "confirmed"]


def test_no_number_of_seeds_makes_up_for_a_premise_that_fails() -> None:
    open_, fails = (
        msgspec.structs.replace(claim(Greater("small", "worse")), premise=(premise,))
        for premise in (Quantity("wild", low=0.0), Quantity("slope", high=1.0))
    )
    alone = judge([claim(Quantity("wild", low=0.0))], ARMS, MEASURED)[0].seeds_to_decide
    assert judge([open_], ARMS, MEASURED)[0].seeds_to_decide == alone
    assert judge([fails], ARMS, MEASURED)[0].seeds_to_decide is None


def test_diverged_runs_that_a_number_had_to_leave_out_are_told() -> None:
    lost = {"lost": {0: 0.0, 1: 2.0, 2: 1.0}}
    told = Quantity("slope", low=1.0, left_out="lost")
    for test, caveats in (
        (told, ("3 diverged runs are left out",)),
        (AllOf((told, msgspec.structs.replace(told, low=0.5))), ("3 diverged runs are left out",)),
        (Quantity("slope", low=1.0), ()),
        (Quantity("slope", low=1.0, left_out="absent"), ()),
    ):
        judgement = judge([claim(test)], {}, MEASURED | lost)[0]
        assert judgement.caveats == caveats
        assert judgement.note == "; ".join(["5 seeds", *caveats])
    assert judge([claim(told)], {}, MEASURED | {"lost": {0: 0.0}})[0].caveats == ()


def test_seeds_whose_number_is_only_a_bound_are_told() -> None:
    test = Quantity("slope", low=1.0, beyond="slope_open")
    (judgement,) = judge([claim(test)], {}, MEASURED | {"slope_open": {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 0.0}})
    assert judgement.caveats == ("in 2 of 5 seeds slope rests on an end of what was tried",)
    assert judge([claim(test)], {}, MEASURED | {"slope_open": {0: 0.0}})[0].caveats == ()
    assert judge([claim(test)], {}, MEASURED)[0].caveats == ()


def test_a_test_knows_its_arms_its_quantities_and_their_units() -> None:
    test = AllOf((Quantity("slope", low=0.0, unit="per ln t"), Greater("a", "b"), Quantity("rank", high=0.0)))
    assert arms_of(test) == ["a", "b"]
    assert quantities_of(test) == ["slope", "rank"]
    assert [unit(part) for part in comparisons(test)] == ["per ln t", "points", ""]
    assert [region(part) for part in comparisons(test)] == [(0.0, math.inf), (0.0, math.inf), (-math.inf, 0.0)]


@pytest.mark.parametrize("bounds", [(None, None), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (-math.inf, None)])
def test_a_quantity_without_room_between_its_bounds_is_refused(bounds: tuple[float | None, float | None]) -> None:
    with pytest.raises(RequestError, match="'slope' needs a finite low or high, low below high, got"):
        Quantity("slope", low=bounds[0], high=bounds[1])


def test_a_combination_names_its_arms_and_its_unit() -> None:
    slope = Combination("slope", (("b", -0.5), ("a", 0.5)), low=0.0, unit="points per doubling")
    assert arms_of(AllOf((Greater("a", "c"), slope))) == ["a", "c", "b"]
    assert quantities_of(slope) == []
    assert (unit(slope), region(slope)) == ("points per doubling", (0.0, math.inf))
    assert unit(Combination("sum", (("a", 1.0), ("b", -1.0)), high=1.0)) == "points"


@pytest.mark.parametrize("terms", [(("a", 1.0), ("b", -0.9)), (("a", 0.0),), (), (("a", 1.0), ("a", -1.0))])
def test_a_combination_that_is_no_contrast_is_refused(terms: tuple[tuple[str, float], ...]) -> None:
    with pytest.raises(RequestError, match="weights of combination 'c' must add up to 0, one for each arm"):
        Combination("c", terms, low=0.0)
    with pytest.raises(RequestError, match="combination 'c' needs a finite low or high"):
        Combination("c", (("a", 1.0), ("b", -1.0)))


@pytest.mark.parametrize("test", [test for test, *_ in QUANTITY_CASES])
def test_claims_about_quantities_survive_json(test: Test) -> None:
    written = claim(test)
    assert msgspec.json.decode(msgspec.json.encode(written), type=Claim) == written
    (judgement,) = judge([written], ARMS, MEASURED)
    finite = all(math.isfinite(part.effect.low) for part in judgement.parts)
    assert not finite or msgspec.json.decode(msgspec.json.encode(judgement), type=Judgement) == judgement


# Claims are data


@pytest.mark.parametrize("test", MIXED_TESTS)
def test_claims_and_judgements_survive_json(test: Test) -> None:
    written = claim(test)
    assert msgspec.json.decode(msgspec.json.encode(written), type=Claim) == written
    judgement = judge_one(test, {name: arm(80.0, 81.0, 83.0) if name == "a" else BASE for name in "abc"})
    finite = all(math.isfinite(part.effect.low) for part in judgement.parts)
    assert not finite or msgspec.json.decode(msgspec.json.encode(judgement), type=Judgement) == judgement


def test_a_test_is_written_with_its_type() -> None:
    assert msgspec.to_builtins(Greater("a", "b")) == {"type": "greater", "first": "a", "second": "b", "margin": 0.0}


def test_arms_of_a_test_are_named_once() -> None:
    assert arms_of(MIXED_TESTS[3]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "greater", "first": "a", "second": "a"}', "two different arms, got 'a' twice"),
        ('{"type": "equivalent", "first": "a", "second": "b", "margin": 0}', "positive and finite, got 0.0"),
        ('{"type": "all_of", "parts": []}', "at least one part"),
        ('{"type": "greater", "first": "a", "second": "b", "margn": 1}', "unknown field `margn`"),
        ('{"type": "less", "first": "a", "second": "b"}', "Invalid value 'less'"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(text, type=Test)


def test_requests_that_say_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="finite number of percent points, got inf"):
        Greater("a", "b", margin=math.inf)
    with pytest.raises(ValueError, match=r"percent, 0 to 100 .*got nan, seed 0"):
        arm(math.nan)
    with pytest.raises(ValueError, match=r"must agree, got 50.0 % and 60.0 %, seed 4"):
        ArmOutcome(accuracy={4: 60.0}, correct={4: np.array([True, False])})
