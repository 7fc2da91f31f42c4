"""The figure of any study: accuracies of the arms with intervals and seeds, beside the claims' effects and regions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.figures import VERDICT_COLORS
from rebatch.report.layout import padded, shorten
from rebatch.report.paper.canvas import INK, QUIET, SHADE, color, whiskers, wrapped
from rebatch.report.paper.material import Material
from rebatch.report.series import arm_accuracy, comparison
from rebatch.report.summary import ClaimSummary
from rebatch.study.claims import Verdict, region, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = (4.3, 4.7)  # inches of the column of arms and of that of claims
LINE, MARK, GAP = 0.155, 0.2, 0.11  # inches: a line of text, the strip of marks under it, the air below
HEAD, AXIS, EDGE = 0.42, 0.52, 0.25  # inches: the title, an axis with its label, the margin

_AXIS_NAMES = {
    "points": "difference of test accuracy (points), adjusted intervals",
    "": "value (no unit), adjusted intervals",
}


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """An arm: its mean, its seeds, and the published accuracy where there is one."""

    name: str
    detail: str
    mean: Interval
    seeds: tuple[float, ...]
    diverged: int
    published: float | None


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One part of a claim; the first of each unit carries the statement."""

    claim: str
    statement: str
    detail: str
    verdict: Verdict
    effect: Interval
    claimed: tuple[float, float]
    published: float | None


@dataclass(frozen=True)
class _Block:
    """A row as it is drawn: lines of text (bold or not) over a strip of marks, from `top` down, in inches."""

    lines: tuple[tuple[str, bool], ...]
    top: float

    @property
    def marks(self) -> float:
        return self.top + LINE * len(self.lines) + MARK / 2

    @property
    def bottom(self) -> float:
        return self.top + LINE * len(self.lines) + MARK + GAP


def arm_rows(material: Material, published: Mapping[str, float] | None = None) -> list[ArmRow]:
    """Every arm that has an accuracy."""
    rows = []
    for arm, about in zip(material.arms, material.summary.arms, strict=True):
        found = arm_accuracy(arm)
        if found.mean is None:
            continue
        diverged = f", {found.diverged} diverged" if found.diverged else ""
        detail = f"batch {about.batch_size:,}, {about.steps:,} steps, n = {len(found.points)}{diverged}"
        seeds = tuple(run.accuracy for run in found.points)
        number = (published or {}).get(arm.name)
        rows.append(
            ArmRow(
                name=arm.name,
                detail=detail,
                mean=found.mean,
                seeds=seeds,
                diverged=found.diverged,
                published=number,
            )
        )
    return rows


def claim_rows(claims: Sequence[ClaimSummary]) -> dict[str, list[ClaimRow]]:
    """The parts and premises of all claims by the unit of their effects, those without any runs left out."""
    rows: dict[str, list[ClaimRow]] = {}
    for claim in claims:
        many = len(claim.parts) > 1
        places = [f"part {number} of {len(claim.parts)}: " if many else "" for number in range(1, len(claim.parts) + 1)]
        places += ["premise: "] * len(claim.premise)
        for place, part in zip(places, (*claim.parts, *claim.premise), strict=True):
            if not math.isfinite(part.effect.estimate):
                continue
            row = ClaimRow(
                claim=claim.id,
                statement=""
                if any(row.claim == claim.id for row in rows.get(unit(part.test), ()))
                else claim.statement,
                detail=f"{place}{comparison(part.test, shorten)}; n\u00a0=\u00a0{len(part.seeds)}",
                verdict=claim.verdict,
                effect=part.effect,
                claimed=region(part.test),
                published=claim.expected if part is claim.parts[0] else None,
            )
            rows.setdefault(unit(part.test), []).append(row)
    return rows


def accuracy_span(rows: Sequence[ArmRow]) -> tuple[float, float]:
    """What the axis shows: all seeds, intervals and published numbers, but no arm that divergence pressed down."""
    healthy = [row for row in rows if not row.diverged] or list(rows)
    values = [value for row in healthy for value in row.seeds]
    values += [end for row in healthy for end in (row.mean.low, row.mean.high) if math.isfinite(end)]
    values += [row.published for row in rows if row.published is not None]
    low, high = padded([min(100.0, max(0.0, value)) for value in values], least=0.5)
    return low, high


def effect_span(rows: Sequence[ClaimRow]) -> tuple[float, float]:
    """What the axis shows: estimates, intervals, margins and published numbers; ends that are infinite do not count."""
    ends = [end for row in rows for end in (row.effect.estimate, row.effect.low, row.effect.high, *row.claimed)]
    ends += [row.published for row in rows if row.published is not None]
    finite = [end for end in ends if math.isfinite(end)]
    low, high = padded(finite, least=1e-3 + 0.1 * max(abs(end) for end in finite))
    return low, high


def rows_figure(material: Material, published: Mapping[str, float] | None = None) -> "Figure | None":
    """The two columns; `None` where nothing has run. A study without accuracies has claims alone."""
    from matplotlib.figure import Figure

    arms, claims = arm_rows(material, published), claim_rows(material.summary.claims)
    if not arms and not claims:
        return None
    arm_blocks = _blocks([_arm_lines(row) for row in arms])
    groups = {name: (rows, _blocks([_claim_lines(row) for row in rows])) for name, rows in claims.items()}
    heights = [_height(arm_blocks), sum(_height(blocks) for _, blocks in groups.values())]
    widths = [width for width, shown in zip(WIDTHS, (arms, claims), strict=True) if shown]
    width, height = sum(widths) + EDGE * (len(widths) + 1), HEAD + max(heights)
    figure = Figure(figsize=(width, height))
    figure.text(EDGE / width, 1 - 0.12 / height, material.title, va="top", fontsize=10.5, fontweight="bold")
    numbers = [row.published for row in arms] + [row.published for many in claims.values() for row in many]
    starred = any(number is not None for number in numbers)
    if key := " ".join([*(["shaded: claimed;"] if claims else []), *(["★: published"] if starred else [])]).rstrip(";"):
        figure.text(1 - EDGE / width, 1 - 0.14 / height, key, ha="right", va="top", fontsize=8.5, color=QUIET)
    if arms:
        axes = _axes(figure, EDGE, HEAD, WIDTHS[0], arm_blocks)
        _draw_arms(axes, arms, arm_blocks)
    left, top = (2 * EDGE + WIDTHS[0] if arms else EDGE), HEAD
    for name, (rows, blocks) in groups.items():
        axes = _axes(figure, left, top, WIDTHS[1], blocks)
        _draw_claims(axes, rows, blocks, name)
        top += _height(blocks)
    return figure


def _arm_lines(row: ArmRow) -> list[tuple[str, bool]]:
    return [(shorten(row.name, 46), True), (row.detail, False)]


def _claim_lines(row: ClaimRow) -> list[tuple[str, bool]]:
    detail = [(line, False) for line in wrapped(row.detail, WIDTHS[1])]
    if not row.statement:  # a further part of the claim above
        return detail
    statement = [(line, False) for line in wrapped(row.statement, WIDTHS[1])]
    return [(f"{row.claim}: {row.verdict}", True), *statement, *detail]


def _blocks(texts: Sequence[Sequence[tuple[str, bool]]]) -> list[_Block]:
    blocks: list[_Block] = []
    for lines in texts:
        blocks.append(_Block(tuple(lines), blocks[-1].bottom if blocks else 0.05))
    return blocks


def _height(blocks: Sequence[_Block]) -> float:
    return blocks[-1].bottom + AXIS if blocks else 0.0


def _axes(figure: "Figure", left: float, top: float, width: float, blocks: Sequence[_Block]) -> "Axes":
    """Axes at a place in inches from the upper left, whose y is inches from their top."""
    whole_width, whole_height = figure.get_size_inches()
    height = blocks[-1].bottom
    bottom = whole_height - top - height
    box = (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    axes = figure.add_axes(box)
    axes.set_ylim(height, 0.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for block in blocks:
        for number, (text, bold) in enumerate(block.lines):
            axes.text(
                0.0,
                block.top + LINE * (number + 0.5),
                text,
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=8.5,
                fontweight="bold" if bold else "normal",
                color=INK if bold else QUIET,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},  # grid lines stay behind the words
            )
    return axes


def _draw_arms(axes: "Axes", rows: Sequence[ArmRow], blocks: Sequence[_Block]) -> None:
    low, high = accuracy_span(rows)
    axes.set_xlim(low, high)
    axes.set_xlabel("test accuracy at the last step (%): mean, 95 % interval, seeds")
    for place, (row, block) in enumerate(zip(rows, blocks, strict=True)):
        inside = [value for value in row.seeds if low <= value <= high]
        axes.plot(inside, [block.marks + 0.085] * len(inside), "|", color=color(place), markersize=5, alpha=0.8)
        if low <= row.mean.estimate <= high:
            whiskers(axes, row.mean, block.marks, color(place))
        if row.published is not None:
            _published(axes, row.published, block.marks)


def _draw_claims(axes: "Axes", rows: Sequence[ClaimRow], blocks: Sequence[_Block], name: str) -> None:
    from matplotlib.patches import Rectangle

    low, high = effect_span(rows)
    axes.set_xlim(low, high)
    axes.set_xlabel(_AXIS_NAMES.get(name, f"{name}, adjusted intervals"))
    for row, block in zip(rows, blocks, strict=True):
        start, stop = max(low, row.claimed[0]), min(high, row.claimed[1])
        corner = (start, block.marks - MARK / 2)
        axes.add_patch(Rectangle(corner, stop - start, MARK, facecolor=SHADE, alpha=0.15, linewidth=0))
        for margin in row.claimed:
            if math.isfinite(margin):
                axes.plot([margin] * 2, [block.marks - MARK / 2, block.marks + MARK / 2], color=SHADE, linewidth=1.2)
        whiskers(axes, row.effect, block.marks, VERDICT_COLORS[row.verdict])
        if row.published is not None:
            _published(axes, row.published, block.marks)


def _published(axes: "Axes", value: float, at: float) -> None:
    axes.plot([value], [at], marker="*", markersize=9, color="#CC79A7", linestyle="none", zorder=1.9)
