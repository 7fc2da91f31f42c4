"""Tables for a terminal: the study's arms, its verdicts."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rebatch.report.summary import Accuracy, ArmSummary, ClaimSummary, StudySummary
from rebatch.report.transfer_table import borderless, show
from rebatch.statistics import Interval

VERDICT_STYLE = {"confirmed": "green", "refuted": "red", "undecided": "yellow"}


def study_tables(summary: StudySummary, *, ran: bool = True) -> RenderableType:
    """The two tables of a study: arms, claims; after a command that `ran` it, also what that command did."""
    counts = _ran(summary) if ran else _stored(summary)
    return Group(
        Text(
            f"{summary.title}\n{summary.study} on {summary.task}, scale {summary.scale}, {summary.execution}; {counts}"
        ),
        _arms_table(summary),
        *([_candidates_table(summary)] if summary.candidates else []),
        *(Text(f"{arm.name}: {_note(arm)}") for arm in summary.arms if _note(arm)),
        Text(),
        *([_quantities_table(summary)] if summary.quantities else []),
        *([_claims_table(summary)] if summary.claims else []),
    )


def percent(accuracy: Accuracy | None) -> str:
    """`98.34 [97.9, 98.8]`, or a dash where no run has finished."""
    if accuracy is None:
        return "-"
    if not math.isfinite(accuracy.low):
        return f"{accuracy.mean:.2f}"
    return f"{accuracy.mean:.2f} [{accuracy.low:.2f}, {accuracy.high:.2f}]"


def share(interval: Interval | None) -> str:
    """A part of the gap in percent with its interval."""
    if interval is None:
        return "-"
    return f"{100 * interval.estimate:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def effect(claim: ClaimSummary) -> str:
    """The headline effect with its adjusted interval, in percent points unless it says otherwise."""
    if math.isnan(claim.effect.estimate):
        return "-"
    return signed(claim.effect) if claim.unit == "points" else f"{plain_interval(claim.effect)} {claim.unit}".rstrip()


def signed(interval: Interval) -> str:
    """`+2.50 [+1.10, +3.90]`; an interval without ends shows none."""
    if not math.isfinite(interval.low):
        return f"{interval.estimate:+.2f}"
    return f"{interval.estimate:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def plain_interval(interval: Interval) -> str:
    """`2.5 [1.1, 3.9]`, four digits; an interval without ends shows none."""
    if not math.isfinite(interval.low):
        return f"{interval.estimate:.4g}"
    return f"{interval.estimate:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _ran(summary: StudySummary) -> str:
    runs = summary.runs
    return f"{runs.done} runs done, {runs.diverged} diverged, {runs.failed} failed, {runs.reused} reused"


def _stored(summary: StudySummary) -> str:
    runs, total = summary.runs, summary.planned
    missing = total - runs.done - runs.diverged
    counts = f"{runs.done} runs done, {runs.diverged} diverged"
    return f"{counts}, {missing} of {total} missing" if missing else counts


def _arms_table(summary: StudySummary) -> Table:
    table = borderless("arm", "batch size", "steps", "n", "accuracy % [95 %]", "gap closed [95 %]")
    table.columns[0].no_wrap = True
    for arm in summary.arms:
        counts = (f"{arm.batch_size:,}", f"{arm.steps:,}", str(arm.n))
        table.add_row(*map(Text, (arm.name, *counts, percent(arm.accuracy), share(arm.gap_share))))
    return table


def _candidates_table(summary: StudySummary) -> Table:
    table = borderless("candidate", "n", "validation accuracy %", "")
    for each in summary.candidates:
        score = "-" if each.validation_accuracy is None else f"{each.validation_accuracy:.2f}"
        table.add_row(*map(Text, (each.name, str(each.n), score, "chosen" if each.chosen else "")))
    return table


def _quantities_table(summary: StudySummary) -> Table:
    table = borderless("quantity", "n", "mean over seeds [95 %]")
    for each in summary.quantities:
        interval = Interval(each.mean, each.low, each.high)
        table.add_row(*map(Text, (each.name, str(len(each.values)), plain_interval(interval))))
    return table


def _note(arm: ArmSummary) -> str:
    diverged = f"{arm.diverged} of {arm.n} diverged" if arm.diverged else ""
    return "; ".join(part for part in (arm.note, diverged) if part)


def _claims_table(summary: StudySummary) -> Table:
    """Published numbers have a column where there are any; `resolves` says what an undecided claim could have seen."""
    published = any(claim.expected is not None for claim in summary.claims)
    resolves = any(claim.verdict == "undecided" for claim in summary.claims)
    extra = [*(["published"] if published else []), *(["resolves"] if resolves else [])]
    table = borderless("claim", "statement", "effect [adjusted]", "verdict", *extra)
    for claim in summary.claims:
        cells = {"published": show(claim.expected), "resolves": _resolves(claim)}
        verdict = Text(claim.verdict, style=VERDICT_STYLE[claim.verdict])
        words = map(Text, (claim.id, claim.statement, effect(claim)))  # as Text: a user's `[/]` is no markup
        table.add_row(*words, verdict, *(Text(cells[name]) for name in extra))
    return table


def _resolves(claim: ClaimSummary) -> str:
    """The smallest effect beyond the margin that so many seeds would have seen four times in five."""
    if claim.smallest_detectable is None or not math.isfinite(claim.smallest_detectable):
        return ""
    return f"{claim.smallest_detectable:.1f}"
