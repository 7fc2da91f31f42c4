"""What all figures of the page share, in plotly's format: axes, rows with names, legends, error bars, texts."""

import html
import math
from collections.abc import Sequence
from typing import Any

from rebatch.interval import Interval

Figure = dict[str, Any]
Trace = dict[str, Any]

LOG_TICKS = [float(f"{digit}e{power}") for power in range(-2, 9) for digit in (1, 2, 5)]  # plotly's own leave out zeros
GRID, AXIS = "rgba(128,128,128,0.22)", "rgba(128,128,128,0.75)"
LINE_LENGTH, NAME_LENGTH = 48, 34  # characters that fit on a phone: a line of the plot, a bold name in it


def rows_layout(title: str, span: Sequence[float], rows: int, labels: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows from the top down, each named above its marks: a name beside them would crush the plot on a phone."""
    layout = axes_layout(title, "")
    layout["xaxis"] |= {"range": list(span), "zeroline": False}
    layout["yaxis"] = {
        "range": [rows - 0.5, -0.85],
        "fixedrange": True,
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
    }
    return layout | {"annotations": labels, "showlegend": False}


def row_label(row: int, text: str) -> dict[str, Any]:
    """A name above its row, from the left edge of the plot."""
    return {
        "text": text,
        "x": 0.0,
        "xref": "paper",
        "xanchor": "left",
        "y": row - 0.17,
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
    }


def axes_layout(x_title: str, y_title: str) -> dict[str, Any]:
    """Axes with titles and a quiet grid; colors of text and paper are the page's."""
    axis = {"gridcolor": GRID, "linecolor": AXIS, "showline": True, "ticks": "outside", "tickcolor": AXIS}
    return {
        "xaxis": {**axis, "title": {"text": x_title, "font": {"size": 14}}, "automargin": True},
        "yaxis": {**axis, "title": {"text": y_title, "font": {"size": 14}}, "automargin": True},
        "margin": {"l": 16, "r": 16, "t": 30, "b": 48},
        "hovermode": "closest",
        "font": {"size": 13},
    }


def legend_below() -> dict[str, Any]:
    """Below the axis, where it covers no data."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0, "yanchor": "bottom"}


def error_bars(intervals: Sequence[Interval], color: str) -> dict[str, Any]:
    """Horizontal error bars; an interval without ends has none."""
    bounded = [math.isfinite(each.low) for each in intervals]
    return {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.estimate if ends else 0.0 for each, ends in zip(intervals, bounded, strict=True)],
        "arrayminus": [
            each.estimate - each.low if ends else 0.0 for each, ends in zip(intervals, bounded, strict=True)
        ],
        "color": color,
        "thickness": 2.5,
        "width": 6,
        "visible": any(bounded),
    }


def ends(interval: Interval, level: str) -> str:
    """The ends of an interval in words, for what shows when a mark is pointed at."""
    if not math.isfinite(interval.low):
        return "no interval"
    return f"{level} [{interval.low:.4g}, {interval.high:.4g}]"


def padded(values: Sequence[float], *, least: float) -> list[float]:
    """The range of an axis that shows all `values` with some air, at least `least` wide."""
    low, high = min(values), max(values)
    air = max(0.06 * (high - low), 0.5 * (least - (high - low)))
    return [low - air, high + air]


def shorten(name: str, length: int = NAME_LENGTH) -> str:
    """A long name with its middle left out, since arms' names differ most at their ends.

    >>> shorten("small_batch+same_examples", 12)
    'small_…mples'
    """
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def translucent(color: str) -> str:
    """The color of a band under its line."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def escaped(text: str) -> str:
    """Text as plotly reads it: a part of HTML."""
    return html.escape(text, quote=False)
