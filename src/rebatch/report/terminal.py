"""Tables for a terminal: the study's arms, its verdicts."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rebatch.report.summary import Accuracy, ArmSummary, ClaimSummary, StudySummary
from rebatch.report.transfer_table import borderless, show
from rebatch.statistics import Interval

VERDICT_STYLE = {"confirmed": "green", "refuted": "red", "undecided": "yellow"}


def study_tables(summary: StudySummary) -> RenderableType:
    """The two tables of a study: arms, claims."""
    runs = summary.runs
    counts = f"{runs.done} runs done, {runs.diverged} diverged, {runs.failed} failed, {runs.reused} reused"
    return Group(
        Text(
            f"{summary.title}\n{summary.study} on {summary.task}, scale {summary.scale}, {summary.execution}; {counts}"
        ),
        _arms_table(summary),
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
    """The headline effect in percent points with its adjusted interval."""
    return "-" if math.isnan(claim.effect.estimate) else signed(claim.effect)


def signed(interval: Interval) -> str:
    """`+2.50 [+1.10, +3.90]`; an interval without ends shows none."""
    if not math.isfinite(interval.low):
        return f"{interval.estimate:+.2f}"
    return f"{interval.estimate:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _arms_table(summary: StudySummary) -> Table:
    table = borderless("arm", "batch size", "steps", "examples", "n", "accuracy % [95 %]", "gap closed [95 %]", "note")
    for arm in summary.arms:
        table.add_row(
            arm.name,
            f"{arm.batch_size:,}",
            f"{arm.steps:,}",
            f"{arm.examples:,}",
            str(arm.n),
            percent(arm.accuracy),
            share(arm.gap_share),
            _note(arm),
        )
    return table


def _note(arm: ArmSummary) -> str:
    diverged = f"{arm.diverged} of {arm.n} diverged" if arm.diverged else ""
    return "; ".join(part for part in (arm.note, diverged) if part)


def _claims_table(summary: StudySummary) -> Table:
    table = borderless("claim", "statement", "effect, points [adjusted]", "published", "verdict")
    for claim in summary.claims:
        limit = f" (would see {claim.smallest_detectable:.1f} beyond the margin)" if _finite(claim) else ""
        verdict = Text(claim.verdict, style=VERDICT_STYLE[claim.verdict]) + Text(limit)
        table.add_row(claim.id, claim.statement, effect(claim), show(claim.expected), verdict)
    return table


def _finite(claim: ClaimSummary) -> bool:
    return claim.smallest_detectable is not None and math.isfinite(claim.smallest_detectable)
