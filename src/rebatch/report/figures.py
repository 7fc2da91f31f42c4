"""From the numbers of `series` to figures: plain dictionaries in plotly's format, drawn in the page by its JavaScript.

One arm has one color, symbol and dash in all figures, so that it is known without color too. Names come from users:
they are cut to what a phone can show, and escaped, for plotly reads a part of HTML in its texts.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rebatch.interval import Interval
from rebatch.report.layout import (
    AXIS,
    LINE_LENGTH,
    LOG_TICKS,
    Figure,
    Trace,
    axes_layout,
    ends,
    error_bars,
    escaped,
    legend_below,
    padded,
    row_label,
    rows_layout,
    shorten,
    translucent,
)
from rebatch.report.series import ArmAccuracy, Curve, EffectRow, RunRecord, comparison
from rebatch.study.claims import Verdict

# Okabe and Ito's palette, told apart by color-blind readers, without black and yellow that vanish on one background.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8A8A")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagram")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

VERDICT_COLORS: dict[Verdict, str] = {"confirmed": "#009E73", "refuted": "#D55E00", "undecided": "#8A8A8A"}
VERDICT_SYMBOLS: dict[Verdict, str] = {"confirmed": "circle", "refuted": "x", "undecided": "diamond-open"}

ROW_ARM, ROW_EFFECT = 68, 88  # pixels of height per row; the label of an effect may take three lines

_SHADE = "rgba(0,114,178,0.16)"
_FLOOR = 1e-3  # percent: bands end here, since a logarithmic axis has no zero

# Explains the shade in the legend; it has no point of its own.
_CLAIMED: Trace = {
    "type": "scatter",
    "mode": "markers",
    "name": "claimed effects",
    "x": [None],
    "y": [None],
    "marker": {"color": _SHADE, "symbol": "square", "size": 14, "line": {"width": 1, "color": COLORS[0]}},
}


@dataclass(frozen=True)
class Style:
    """How an arm looks, in every figure."""

    color: str
    symbol: str
    dash: str


def arm_styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each arm, by its place in the study; no two of the first 280 are the same."""
    return {
        name: Style(COLORS[i % len(COLORS)], SYMBOLS[i % len(SYMBOLS)], DASHES[i // len(COLORS) % len(DASHES)])
        for i, name in enumerate(names)
    }


def accuracy_figure(arms: Sequence[ArmAccuracy], styles: dict[str, Style]) -> Figure:
    """A row per arm: the mean over seeds with its 95 % interval, and below it every seed."""
    low, high = accuracy_range(arms)
    data = [trace for row, arm in enumerate(arms) for trace in _accuracy_traces(row, arm, styles[arm.name])]
    labels = [row_label(row, _accuracy_label(arm, low)) for row, arm in enumerate(arms)]
    layout = rows_layout("test accuracy at the last step (%)", (low, high), len(arms), labels)
    return {"data": data, "layout": layout}


def accuracy_range(arms: Sequence[ArmAccuracy]) -> tuple[float, float]:
    """The accuracies that the figure shows: all seeds and intervals, but none that divergence has blown up.

    One run at chance level would press all other arms into a corner; it is named in its arm's label instead.
    """
    healthy = [arm for arm in arms if arm.points and not arm.diverged]
    values = [run.accuracy for arm in arms for run in arm.points if not run.diverged]
    values += [end for arm in healthy if arm.mean for end in (arm.mean.low, arm.mean.high) if math.isfinite(end)]
    shown = values or [run.accuracy for arm in arms for run in arm.points] or [0.0, 100.0]
    low, high = padded([min(100.0, max(0.0, value)) for value in shown], least=1.0)
    return low, high


def error_figure(curves: Sequence[Curve], styles: dict[str, Style], *, against: Literal["steps", "examples"]) -> Figure:
    """Validation error: mean over seeds and a band, its 95 % interval, over the logarithm of steps or examples.

    The error axis is logarithmic too: arms that start at 90 % and end at 2 and 3 % look alike on a linear one.
    `layout.meta` holds its range for either scale, since the page lets the reader choose.
    """
    titles = {"steps": "optimizer steps (log scale)", "examples": "training examples seen (log scale)"}
    figure = _curves_figure(curves, styles, against, titles[against], "validation error (%)", "%")
    linear, log = _error_ranges(curves)
    figure["layout"]["yaxis"] |= {"type": "log", "range": log, "tickmode": "array", "tickvals": LOG_TICKS}
    figure["layout"]["meta"] = {"linear": linear, "log": log}
    return figure


def distance_figure(curves: Sequence[Curve], styles: dict[str, Style]) -> Figure:
    """Weight distance over the logarithm of steps: a straight line where it grows as log t."""
    return _curves_figure(
        curves, styles, "steps", "optimizer steps (log scale)", "weight distance ‖w<sub>t</sub> - w<sub>0</sub>‖", ""
    )


def effects_figure(rows: Sequence[EffectRow]) -> Figure:
    """A row per comparison: the effect with its adjusted interval over the shaded region that the claim names."""
    span = _effects_range(rows)
    groups = {verdict: [(i, row) for i, row in enumerate(rows) if row.verdict == verdict] for verdict in VERDICT_COLORS}
    data = [_effects_trace(verdict, group) for verdict, group in groups.items() if group]
    published = [(i, row.published) for i, row in enumerate(rows) if row.published is not None]
    labels = [row_label(i, _effect_label(row)) for i, row in enumerate(rows)]
    layout = rows_layout("effect on test accuracy (percent points)", span, len(rows), labels)
    layout["shapes"] = [shape for i, row in enumerate(rows) for shape in _claimed_region(i, row.claimed)]
    layout |= {"showlegend": True, "legend": legend_below()}
    layout["xaxis"] |= {"zeroline": True, "zerolinecolor": AXIS}
    extra = [_CLAIMED, *([_published_trace(published)] if published else [])] if rows else []
    return {"data": data + extra, "layout": layout}


def _accuracy_traces(row: int, arm: ArmAccuracy, style: Style) -> list[Trace]:
    if arm.mean is None:
        return []
    mean: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": escaped(arm.name),
        "x": [arm.mean.estimate],
        "y": [row],
        "marker": {"color": style.color, "symbol": style.symbol, "size": 12},
        "error_x": error_bars([arm.mean], style.color),
        "customdata": [ends(arm.mean, "95 %")],
        "hovertemplate": "mean %{x:.2f} %, %{customdata}<extra>%{fullData.name}</extra>",
    }
    return [mean, _seeds_trace(row, arm.points, style)]


def _seeds_trace(row: int, runs: Sequence[RunRecord], style: Style) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [run.accuracy for run in runs],
        "y": [row + 0.17 + 0.055 * place for place in _places([run.accuracy for run in runs])],
        "marker": {
            "color": style.color,
            "opacity": 0.65,
            "size": 7,
            "symbol": ["x" if run.diverged else "circle" for run in runs],
        },
        "customdata": [f"seed {run.seed}{', diverged' if run.diverged else ''}" for run in runs],
        "hovertemplate": "%{customdata}: %{x:.2f} %<extra></extra>",
    }


def _places(values: Sequence[float]) -> list[int]:
    """How many equal values stand before each, so that equal seeds are stacked instead of hidden; 5 at most."""
    return [min(5, values[:i].count(value)) for i, value in enumerate(values)]


def _accuracy_label(arm: ArmAccuracy, low: float) -> str:
    if arm.mean is None:
        return f"<b>{escaped(shorten(arm.name))}</b>  no run yet"
    outside = f", mean {arm.mean.estimate:.2f} is off the scale" if arm.mean.estimate < low else ""
    diverged = f", {arm.diverged} diverged{outside}" if arm.diverged else ""
    line_break = "<br>" if len(arm.name) + len(diverged) > LINE_LENGTH - 8 else "  "
    return f"<b>{escaped(shorten(arm.name))}</b>{line_break}n = {len(arm.points)}{diverged}"


def _curves_figure(
    curves: Sequence[Curve], styles: dict[str, Style], against: str, x_title: str, y_title: str, unit: str
) -> Figure:
    drawn = [(curve, list(getattr(curve, against)), styles[curve.name]) for curve in curves if curve.n]
    bands = [_band(curve, x, style) for curve, x, style in drawn]
    lines = [_line(curve, x, style, f"{against}: %{{y:.4g}} {unit}".rstrip()) for curve, x, style in drawn]
    layout = axes_layout(x_title, y_title)
    layout["xaxis"] |= {"type": "log", "tickformat": "~s", "dtick": 1}
    if _decades(drawn) < 1.5:
        layout["xaxis"] |= {"tickmode": "array", "tickvals": LOG_TICKS}
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": bands + lines, "layout": layout | {"showlegend": True, "legend": legend_below()}}


def _decades(drawn: Sequence[tuple[Curve, list[int], Style]]) -> float:
    ends = [float(x) for _, xs, _ in drawn for x in xs]
    return math.log10(max(ends) / min(ends)) if ends else 1.0


def _line(curve: Curve, x: list[int], style: Style, value: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{escaped(shorten(curve.name))} (n = {curve.n})",
        "legendgroup": escaped(curve.name),
        "x": x,
        "y": [mean.estimate for mean in curve.means],
        "line": {"color": style.color, "dash": style.dash, "width": 2},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 5},
        "customdata": [ends(mean, "95 %") for mean in curve.means],
        "hovertemplate": f"%{{x:,}} {value}, %{{customdata}}<extra>%{{fullData.name}}</extra>",
    }


def _band(curve: Curve, x: list[int], style: Style) -> Trace:
    """One closed outline for each stretch where the interval has ends."""
    outlines = [_outline(stretch) for stretch in _stretches(x, curve.means)]
    return {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": escaped(curve.name),
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [value for xs, _ in outlines for value in (*xs, None)],
        "y": [value for _, ys in outlines for value in (*ys, None)],
        "fill": "toself",
        "fillcolor": translucent(style.color),
        "line": {"width": 0},
    }


def _stretches(x: Sequence[int], means: Sequence[Interval]) -> list[list[tuple[int, Interval]]]:
    """Neighboring points whose intervals are finite."""
    stretches: list[list[tuple[int, Interval]]] = [[]]
    for point in zip(x, means, strict=True):
        if math.isfinite(point[1].low):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _outline(stretch: Sequence[tuple[int, Interval]]) -> tuple[list[int], list[float]]:
    there = [(x, max(mean.low, _FLOOR)) for x, mean in stretch]
    back = [(x, mean.high) for x, mean in reversed(stretch)]
    return [x for x, _ in there + back], [y for _, y in there + back]


def _error_ranges(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """The axis from zero, and the logarithms of its bounds where it is logarithmic."""
    means = [mean.estimate for curve in curves for mean in curve.means]
    bounds = [mean.high for curve in curves for mean in curve.means if math.isfinite(mean.high)]
    high = 1.05 * min(100.0, max(means + bounds, default=100.0))
    low = 0.7 * min((mean for mean in means if mean > _FLOOR), default=1.0)
    return [0.0, high], [math.log10(low), math.log10(max(high, 2.0 * low))]


def _effects_trace(verdict: Verdict, group: Sequence[tuple[int, EffectRow]]) -> Trace:
    color = VERDICT_COLORS[verdict]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": verdict,
        "x": [row.effect.estimate for _, row in group],
        "y": [i for i, _ in group],
        "marker": {
            "color": color,
            "symbol": VERDICT_SYMBOLS[verdict],
            "size": 12,
            "line": {"width": 2, "color": color},
        },
        "error_x": error_bars([row.effect for _, row in group], color),
        "customdata": [_effect_hover(row) for _, row in group],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _effect_hover(row: EffectRow) -> str:
    statement = "<br>".join(escaped(line) for line in textwrap.wrap(row.statement, LINE_LENGTH))
    return f"{statement}<br>{row.effect.estimate:+.2f}, {ends(row.effect, f'{100 * row.level:.4g} %')}: {row.verdict}"


def _published_trace(published: Sequence[tuple[int, float]]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "published",
        "x": [value for _, value in published],
        "y": [i for i, _ in published],
        "marker": {"color": "#CC79A7", "symbol": "star-diamond", "size": 11},
        "hovertemplate": "published: %{x:+.2f}<extra></extra>",
    }


def _effect_label(row: EffectRow) -> str:
    part = f" ({row.part} of {row.parts})" if row.parts > 1 else ""
    text = comparison(row.test, shorten)
    lines = textwrap.wrap(text, LINE_LENGTH, max_lines=2, placeholder=" …", break_on_hyphens=False)
    head = f"<b>{escaped(shorten(row.claim, 24))}</b>{part} {row.verdict}"
    return "<br>".join([head, *(escaped(line) for line in lines)])


def _claimed_region(row: int, claimed: tuple[float, float]) -> list[dict[str, Any]]:
    """The claimed effects, shaded, with a line at each margin."""
    far = 1000.0  # effects lie within 100 points, so the shade reaches beyond every zoom
    low, high = max(claimed[0], -far), min(claimed[1], far)
    height = {"y0": row - 0.15, "y1": row + 0.15, "layer": "below"}
    shade = {"type": "rect", "x0": low, "x1": high, "fillcolor": _SHADE, "line": {"width": 0}, **height}
    line = {"color": COLORS[0], "width": 1.5}
    margins = [{"type": "line", "x0": x, "x1": x, "line": line, **height} for x in claimed if math.isfinite(x)]
    return [shade, *margins]


def _effects_range(rows: Sequence[EffectRow]) -> list[float]:
    bounds = [end for row in rows for end in (row.effect.estimate, row.effect.low, row.effect.high, *row.claimed)]
    bounds += [row.published for row in rows if row.published is not None]
    possible = (max(-100.0, min(100.0, end)) for end in bounds if math.isfinite(end))
    return padded([0.0, *possible], least=1.0)
