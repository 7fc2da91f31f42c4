"""The parts of a study's report that are words and tables: facts, what is missing, arms, verdicts, how it was made."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rebatch.interval import Interval
from rebatch.recipe_file import dumps_recipe
from rebatch.report.figures import arm_styles
from rebatch.report.markup import Html, definitions, element, joined, table
from rebatch.report.series import ArmRecord, comparison
from rebatch.report.summary import ArmSummary, ClaimSummary, StudySummary
from rebatch.report.terminal import MANY, effect, percent, plain_interval, share, shown_columns, signed
from rebatch.report.transfer_table import show
from rebatch.study.claims import PartEffect, Verdict, seeds_to_decide, unit
from rebatch.study.plan import Plan

VERDICT_MARKS: dict[Verdict, str] = {"confirmed": "●", "refuted": "✕", "undecided": "◇"}

# So many arms are a grid, which nobody reads row by row.
GRID = 32


def facts(plan: Plan, summary: StudySummary) -> Html:
    """What was studied, on what, how much of it, and what it took."""
    runs = summary.runs
    return definitions(
        [
            ("study", plan.study),
            ("source", plan.source),
            ("task", plan.task),
            ("scale", plan.scale),
            ("execution", summary.execution),
            ("training examples", show(plan.examples)),
            ("accuracy of a guess", f"{plan.chance:.4g} %"),
            ("runs", f"{runs.done} done, {runs.diverged} diverged, of {summary.planned}"),
            ("compute time, all runs added", duration(summary.seconds)),
        ]
    )


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.25), duration(754), duration(90061)
    ('7.2 s', '12 min 34 s', '25 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def missing(plan: Plan, summary: StudySummary, arms: Sequence[ArmRecord]) -> Html | None:
    """Which planned runs have no result, or `None` where the study is complete."""
    planned = {arm.name: plan.seeds(arm) for arm in plan.design.arms}
    tried = {each.name: each.n for each in summary.candidates}
    lacking = {arm.name: sorted(set(planned[arm.name]) - {run.seed for run in arm.runs}) for arm in arms}
    lines = [f"{name}: {_seeds(seeds)}" for name, seeds in lacking.items() if seeds]
    lines += [f"{name}: {len(planned[name]) - n} seeds" for name, n in tried.items() if n < len(planned[name])]
    lines += [f"{arm.name}: waits for its candidates" for arm in plan.waiting]
    if not lines:
        return None
    absent = sum(map(len, lacking.values())) + sum(len(planned[name]) - n for name, n in tried.items())
    text = (
        f"This study is incomplete: {absent} of {sum(map(len, planned.values()))} runs have no result (not run yet, "
        "still running, or failed). Means, intervals and verdicts speak about the finished runs. Missing:"
    )
    return element("div", element("p", text), element("ul", *(element("li", line) for line in lines)), class_="notice")


def headline(summary: StudySummary) -> Html:
    """How many claims got which verdict."""
    counts = Counter(claim.verdict for claim in summary.claims)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICT_MARKS)
    scope = f"for {summary.task} at scale {summary.scale}"
    return element("p", f"Claims {scope}: {words}." if summary.claims else f"No claims are tested {scope}.")


def arms_table(summary: StudySummary) -> Html:
    """A row per arm: what it costs and what it reaches; a grid of arms is folded away."""
    styles = arm_styles(arm.name for arm in summary.arms)
    cells = {arm.name: _arm_cells(arm) for arm in summary.arms}
    first, *others = cells[summary.arms[0].name]
    numbers = [first, *shown_columns(summary, others)]
    noted = any(_note(arm) for arm in summary.arms)
    rows = [
        [
            _swatch(styles[arm.name].color, arm.name),
            *(cells[arm.name][name] for name in numbers),
            *([element("span", _note(arm), class_="long")] if noted else []),
        ]
        for arm in summary.arms
    ]
    found = table("Arms", ["arm", *numbers, *(["note"] if noted else [])], rows, numbers=numbers)
    if len(rows) <= GRID:
        return found
    return element("details", element("summary", f"{len(rows)} arms"), found)


def candidates_table(summary: StudySummary) -> Html | None:
    """The arms that served to choose others, folded away; the chosen ones first."""
    if not summary.candidates:
        return None
    numbers = ["n", "validation accuracy, %"]
    rows = [
        [each.name, str(each.n), _score(each.validation_accuracy), "chosen" if each.chosen else ""]
        for each in sorted(summary.candidates, key=lambda each: not each.chosen)
    ]
    chosen = sum(each.chosen for each in summary.candidates)
    title = f"{len(rows)} candidates, {chosen} chosen by mean validation accuracy"
    return element(
        "details", element("summary", title), table("Candidates", ["candidate", *numbers, ""], rows, numbers=numbers)
    )


def quantities_table(summary: StudySummary) -> Html | None:
    """The numbers that claims speak about, and those that the study measures beside them; many are folded away."""
    if not summary.quantities:
        return None
    numbers = ["n", "mean over seeds [95 %]"]
    rows = [
        [each.name, str(len(each.values)), _nowrap(plain_interval(Interval(each.mean, each.low, each.high))), each.unit]
        for each in summary.quantities
    ]
    found = table("Quantities", ["quantity", *numbers, "unit"], rows, numbers=numbers)
    if len(rows) <= MANY:
        return joined(element("h4", "Quantities"), found)
    return element("details", element("summary", f"{len(rows)} quantities"), found)


def claims_table(summary: StudySummary) -> Html:
    """A row per claim: statement, verdict, what was seen, what was published; below, why these margins and seeds."""
    if not summary.claims:
        return element("p", "This study makes no claims.")
    head = ["claim", "verdict", "effect [interval]", "published"]
    return joined(table("Claims and verdicts", head, map(_claim_cells, summary.claims)), _reasons(summary.claims))


def commands(plan: Plan, remake: str) -> Html:
    """The command that ran the study, and the one that writes the page from what is stored."""
    ran = element("pre", plan.command) if plan.command else element("p", "The store does not say.", class_="quiet")
    return joined(
        element("h4", "Command that ran it"),
        element("p", "Given again, it runs what is missing and then writes this page.", class_="quiet"),
        ran,
        element("h4", "Command that writes this page again from the stored runs"),
        element("pre", remake),
    )


def seeds(plan: Plan, arms: Sequence[ArmRecord]) -> Html:
    """The planned seeds and what a seed draws."""
    planned = range(plan.design.seeds)
    what = "initial weights, order of examples"
    split = "and the split of the data" if plan.seed_draws_split else "on one split of the data"
    each = {arm.name: plan.seeds(arm) for arm in plan.design.arms}
    complete = all(len(arm.runs) == len(each[arm.name]) for arm in arms)
    state = "all finished" if complete else "not all finished, see the top of this study"
    text = f"{_seeds(list(planned))}, the same for every arm ({state}). A seed draws {what}, {split}."
    return joined(element("h4", "Seeds"), element("p", text[0].upper() + text[1:]))


def environments(arms: Sequence[ArmRecord]) -> Html:
    """Every distinct environment, a column each, with the number of runs and their time."""
    groups: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for run in (run for arm in arms for run in arm.runs):
        key = repr(sorted(run.result.environment.items()))
        groups.setdefault(key, []).append((run.result.environment, run.result.seconds))
    if not groups:
        return joined(element("h4", "Environment"), element("p", "No run has finished yet.", class_="quiet"))
    found = list(groups.values())
    names = dict.fromkeys(name for group in found for name in group[0][0])
    rows = [
        ["runs", *(str(len(group)) for group in found)],
        ["compute time", *(duration(sum(seconds for _, seconds in group)) for group in found)],
        *([name, *(show(group[0][0].get(name)) for group in found)] for name in names),
    ]
    title = "Environment" if len(found) == 1 else f"{len(found)} environments"
    columns = ["of all runs"] if len(found) == 1 else [f"environment {i}" for i in range(1, len(found) + 1)]
    return joined(element("h4", title), table(title, ["", *columns], rows))


def recipes(plan: Plan) -> Html:
    """Every arm's recipe as a TOML file."""
    items = [
        element("details", element("summary", arm.name), element("pre", dumps_recipe(arm.recipe)))
        for arm in plan.design.arms
    ]
    return joined(element("h4", "Recipes"), *items)


def _arm_cells(arm: ArmSummary) -> dict[str, str]:
    return {
        "batch size": show(arm.batch_size),
        "steps": "-" if arm.probe else show(arm.steps),
        "examples": "-" if arm.probe else show(arm.examples),
        "epochs": "-" if arm.probe else f"{arm.epochs:.4g}",
        "n": str(arm.n),
        "accuracy, % [95 %]": _nowrap(percent(arm.accuracy)),
        "gap closed [95 %]": _nowrap(share(arm.gap_share)),
    }


def _score(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.2f}"


def _note(arm: ArmSummary) -> str:
    states = {
        "no run has finished": arm.n == 0,
        "one seed has no interval": arm.n == 1,
        f"{arm.diverged} of {arm.n} diverged": arm.diverged > 0,
    }
    return "; ".join([*([arm.note] if arm.note else []), *(text for text, holds in states.items() if holds)])


def _claim_cells(claim: ClaimSummary) -> list[str]:
    statement = element("span", claim.statement, element("small", claim.source), class_="long")
    points = " points" if claim.unit == "points" and not math.isnan(claim.effect.estimate) else ""
    seen = _nowrap(effect(claim) + points + _level(claim))
    return [
        joined(claim.id, statement),
        _verdict(claim),
        element("span", seen, _parts(claim.parts), _premise(claim.premise), class_="long effects"),
        _published(claim),
    ]


def _level(claim: ClaimSummary) -> str:
    if math.isfinite(claim.effect.low):
        return f" at {100 * claim.level:.4g} %"
    return "" if math.isnan(claim.effect.estimate) else ", no interval"


def _parts(parts: Sequence[PartEffect]) -> Html:
    """What was compared; where a claim has several parts, each with its effect."""
    if len(parts) == 1:
        return element("small", f"of {comparison(parts[0].test)}")
    lines = (element("small", f"{comparison(part.test)}: {_seen(part)}") for part in parts)
    return joined(element("small", "first part; every part must hold"), *lines)


def _premise(premise: Sequence[PartEffect]) -> Html:
    """What the claim takes for granted, with what was seen of it."""
    lines = (element("small", f"premise {comparison(part.test)}: {_seen(part)}") for part in premise)
    return joined(*lines)


def _seen(part: PartEffect) -> str:
    if math.isnan(part.effect.estimate):
        return "no runs yet"
    return signed(part.effect) if unit(part.test) == "points" else plain_interval(part.effect)


def _reasons(claims: Sequence[ClaimSummary]) -> Html:
    """Why these margins and so many seeds; claims with the same reason are named together."""
    ids: dict[str, list[str]] = {}
    for claim in claims:
        ids.setdefault(claim.why, []).append(claim.id)
    lines = [element("p", f"{', '.join(names)}: {why}", class_="quiet") for why, names in ids.items() if why]
    return joined(element("h4", "Why these margins and so many seeds"), *lines) if lines else Html("")


def _published(claim: ClaimSummary) -> str:
    if claim.expected is None:
        return "-"
    number = f"{claim.expected:+g}" if claim.unit == "points" else f"{claim.expected:.4g}"
    if not math.isfinite(claim.effect.low):
        return number
    inside = claim.effect.low <= claim.expected <= claim.effect.high
    return joined(number, element("small", f"{'inside' if inside else 'outside'} the interval"))


def _verdict(claim: ClaimSummary) -> Html:
    verdict = element("span", f"{VERDICT_MARKS[claim.verdict]} {claim.verdict}", class_=claim.verdict)
    return element("span", verdict, element("small", claim.note), _detectable(claim), class_="long")


def _detectable(claim: ClaimSummary) -> Html | None:
    if claim.verdict != "undecided":
        return None
    limit = claim.smallest_detectable
    if limit is None or not math.isfinite(limit):
        return element("small", "the smallest effect that so many seeds could see is not known")
    amount = f"{limit:.1f} points" if claim.unit == "points" else f"{limit:.3g} {claim.unit}".rstrip()
    # More seeds make no premise hold.
    needs = "" if claim.premise and claim.caveats else f"; {seeds_to_decide(claim.seeds_to_decide)}"
    return element("small", f"would see an effect {amount} beyond the margin (with probability 0.8){needs}")


def _seeds(numbers: Sequence[int]) -> str:
    if not numbers:
        return "no seed"
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and last - first == len(numbers) - 1:
        return f"seeds {first} to {last}"
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _swatch(color: str, name: str) -> Html:
    mark = element("span", "", class_="swatch", aria_hidden="true", style=f"background: {color}")
    return element("span", mark, name, class_="arm")


def _nowrap(text: str) -> Html:
    return element("span", text, class_="nowrap")
