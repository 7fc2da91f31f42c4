"""Tables for a terminal: the study's arms, its verdicts."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rebatch.interval import Interval
from rebatch.report.summary import (
    Accuracy,
    ArmSummary,
    Candidate,
    ClaimSummary,
    QuantitySummary,
    StudySummary,
)
from rebatch.report.transfer_table import borderless, show
from rebatch.study.claims import Quantity

MANY = 16  # candidates or quantities: beyond that a table shows only those that matter to the claims

VERDICT_STYLE = {"confirmed": "green", "refuted": "red", "undecided": "yellow"}


def study_tables(summary: StudySummary, *, ran: bool = True) -> RenderableType:
    """The two tables of a study: arms, claims; after a command that `ran` it, also what that command did."""
    counts = _ran(summary) if ran else _stored(summary)
    tables: list[RenderableType] = []
    if summary.candidates:
        tables += [_candidates_table(summary), *_more_candidates(summary)]
    tables += [*(Text(f"{arm.name}: {_note(arm)}") for arm in summary.arms if _note(arm)), Text()]
    if summary.quantities:
        tables += [_quantities_table(summary), *_more_quantities(summary), Text()]
    if summary.claims:
        tables += [_claims_table(summary)]
        tables += [Text(f"{claim.id}: {'; '.join(claim.caveats)}") for claim in summary.claims if claim.caveats]
    return Group(
        Text(
            f"{summary.title}\n{summary.study} on {summary.task}, scale {summary.scale}, {summary.execution}; {counts}"
        ),
        _arms_table(summary),
        *tables,
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
    """Columns in which something stands: probes have neither steps nor accuracies, and not every study has a gap."""
    names = ["batch size", *shown_columns(summary, ["steps", "n", "accuracy % [95 %]", "gap closed [95 %]"])]
    table = borderless("arm", *names, whole=["arm", "accuracy % [95 %]", "gap closed [95 %]"])
    for arm in summary.arms:
        cells = {
            "batch size": f"{arm.batch_size:,}",
            "steps": "-" if arm.probe else f"{arm.steps:,}",
            "n": str(arm.n),
            "accuracy % [95 %]": percent(arm.accuracy),
            "gap closed [95 %]": share(arm.gap_share),
        }
        table.add_row(Text(arm.name), *(Text(cells[name]) for name in names))
    return table


def shown_columns(summary: StudySummary, names: Sequence[str]) -> list[str]:
    """Of a table of arms: no costs and accuracies where all of them are probes, no gap where none is known."""
    trained = any(not arm.probe for arm in summary.arms)
    gap = any(arm.gap_share is not None for arm in summary.arms)
    return [name for name in names if name == "n" or (trained and (gap or not name.startswith("gap")))]


def _candidates_table(summary: StudySummary) -> Table:
    table = borderless("candidate", "n", "validation accuracy %", "")
    for each in _shown_candidates(summary):
        score = "-" if each.validation_accuracy is None else f"{each.validation_accuracy:.2f}"
        table.add_row(*map(Text, (each.name, str(each.n), score, "chosen" if each.chosen else "")))
    return table


def _shown_candidates(summary: StudySummary) -> Sequence[Candidate]:
    """All, or of many only those that were chosen."""
    chosen = [each for each in summary.candidates if each.chosen]
    return chosen if chosen and len(summary.candidates) > MANY else summary.candidates


def _more_candidates(summary: StudySummary) -> list[Text]:
    more = len(summary.candidates) - len(_shown_candidates(summary))
    return [Text(f"and {more} candidates that were not chosen (--json has all)")] if more else []


def _quantities_table(summary: StudySummary) -> Table:
    table = borderless("quantity", "n", "mean over seeds [95 %]", whole=["mean over seeds [95 %]"])
    for each in _shown_quantities(summary):
        mean = f"{plain_interval(Interval(each.mean, each.low, each.high))} {each.unit}".rstrip()
        table.add_row(*map(Text, (each.name, str(len(each.values)), mean)))
    return table


def _shown_quantities(summary: StudySummary) -> Sequence[QuantitySummary]:
    """All, or of many only those that claims speak about."""
    tests = [part.test for claim in summary.claims for part in claim.parts]
    claimed = {test.name for test in tests if isinstance(test, Quantity)}
    few = [each for each in summary.quantities if each.name in claimed]
    return few if few and len(summary.quantities) > MANY else summary.quantities


def _more_quantities(summary: StudySummary) -> list[Text]:
    more = len(summary.quantities) - len(_shown_quantities(summary))
    return [Text(f"and {more} quantities that no claim speaks about (--json has all)")] if more else []


def _note(arm: ArmSummary) -> str:
    diverged = f"{arm.diverged} of {arm.n} diverged" if arm.diverged else ""
    return "; ".join(part for part in (arm.note, diverged) if part)


def _claims_table(summary: StudySummary) -> Table:
    """Published numbers have a column where there are any; `resolves` says what an undecided claim could have seen."""
    published = any(claim.expected is not None for claim in summary.claims)
    resolves = any(claim.verdict == "undecided" for claim in summary.claims)
    extra = [*(["published"] if published else []), *(["resolves"] if resolves else [])]
    table = borderless("claim", "statement", "effect [adjusted]", "verdict", *extra, whole=["effect [adjusted]"])
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
