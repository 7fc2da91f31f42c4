"""What all figures share: paper, type, colors, whiskers and bands; and an SVG that is the same bytes every time."""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.figures import COLORS
from rebatch.report.series import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, QUIET, SHADE = "#1a1a1a", "#5f5f5f", "#0072B2"
MARKERS = ("o", "s", "D", "^", "v", "p", "*", "h")  # as in report.figures.SYMBOLS
LETTER = 0.067  # inches that a letter of the small type takes on average, a little more

_STYLE = {
    "svg.hashsalt": "rebatch",
    "svg.fonttype": "none",  # words stay words: found by a search, read aloud, and a fifth of the bytes
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.5,
    "path.simplify": True,
}

# Coordinates of outlines and marks, and their digits beyond a hundredth of a point, which nobody sees.
_POINTS = re.compile(rb' (?:d|x|y)="[^"]*"')
_LONG = re.compile(rb"(\d\.\d\d)\d+")
_COMMENT, _SPACE = re.compile(rb"<!-- .*? -->"), re.compile(rb"\n\s+")

# The marks of one line: all have one style.
_MARKS = re.compile(rb'<g( clip-path="[^"]*")>((?:\n<use [^>]*( style="[^"]*")/>)(?:\n<use [^>]*\3/>)+)\n</g>')


@contextmanager
def style() -> Iterator[None]:
    """Our style and nobody else's, whatever a user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        yield


def panels(rows: int, columns: int, width: float, height: float, title: str) -> "tuple[Figure, list[list[Axes]]]":
    """A figure with a title and a grid of axes, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def svg_bytes(figure: "Figure") -> bytes:
    """The figure as SVG without a date or a random name in it."""
    _settle(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "rebatch"})
    bare = _MARKS.sub(_style_once, _SPACE.sub(b"\n", _COMMENT.sub(b"", buffer.getvalue())))
    short = _POINTS.sub(lambda found: _LONG.sub(rb"\1", found[0]), bare)
    return short.replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")  # narrower than the first: it fits


def _settle(figure: "Figure") -> None:
    """Lay the figure out, for good.

    The solver of the layout adds in the order of memory addresses, so that the last bits of a panel's place differ
    from drawing to drawing, and with them the names that clipping gets in the SVG, which are hashes of places.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(6)))


def _style_once(found: re.Match[bytes]) -> bytes:
    """Marks that inherit their style from their group instead of each having a copy."""
    clip, marks, look = found.groups()
    return b"<g" + clip + look + b">" + marks.replace(look, b"") + b"\n</g>"


def color(index: int) -> str:
    """The color of the arm, or batch size, at a place in its order."""
    return COLORS[index % len(COLORS)]


def whiskers(
    axes: "Axes", interval: Interval, at: float, paint: str, *, upright: bool = False, size: float = 6
) -> None:
    """A mark at the estimate and a line over the interval, where it has ends."""
    if math.isfinite(interval.low):
        ends, place = [interval.low, interval.high], [at, at]
        axes.plot(*((place, ends) if upright else (ends, place)), color=paint, linewidth=2.0, solid_capstyle="butt")
    x, y = (at, interval.estimate) if upright else (interval.estimate, at)
    axes.plot([x], [y], marker="o", markersize=size, color=paint, linestyle="none")


def curve(axes: "Axes", found: Curve, x: Sequence[float], index: int, *, label: str) -> None:
    """A mean over seeds of what cannot be negative, and the band of its 95 % interval, where that has ends."""
    band(axes, x, found.means, color(index), least=0.0)
    values = [mean.estimate for mean in found.means]
    axes.plot(x, values, color=color(index), marker=MARKERS[index % len(MARKERS)], markersize=3.5, label=label)


def band(axes: "Axes", x: Sequence[float], means: Sequence[Interval], paint: str, least: float = -math.inf) -> None:
    """The 95 % interval of a mean over seeds, at each point; not below the `least` that there can be."""
    bounded = [math.isfinite(mean.low) for mean in means]
    low = [max(mean.low, least) if ends else math.nan for mean, ends in zip(means, bounded, strict=True)]
    high = [mean.high if ends else math.nan for mean, ends in zip(means, bounded, strict=True)]
    if any(bounded):
        axes.fill_between(x, low, high, color=paint, alpha=0.16, linewidth=0)


def notes(figure: "Figure", text: str, axes: "Axes | None" = None, columns: int = 3) -> None:
    """Below the whole figure: the names of what `axes` shows, each once, and under them how to read it."""
    height = float(figure.get_size_inches()[1])
    lines = text.count("\n") + 1
    words = _NOTE_LINE * lines + 0.06
    figure.text(0.01, 0.04 / height, text, va="bottom", fontsize=8, color=QUIET, linespacing=1.25)
    below = words
    if axes is not None:
        handles, labels = axes.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        place = (0.005, words / height)
        figure.legend(
            named.values(), named.keys(), loc="lower left", bbox_to_anchor=place, ncols=columns, borderaxespad=0.0
        )
        below += _NAME_LINE * math.ceil(len(named) / columns) + 0.05
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.0, below / height, 1.0, 1.0 - below / height))  # type: ignore[call-arg]


_NOTE_LINE, _NAME_LINE = 0.16, 0.2  # inches of a line of the reading, and of a row of names


def wrapped(text: str, width: float) -> list[str]:
    """The lines of `text` in a column of so many inches of small type.

    >>> wrapped("one two three", 0.6)
    ['one two', 'three']
    """
    return textwrap.wrap(text, max(8, int(width / LETTER)), break_on_hyphens=False) or [""]


def interval_words(interval: Interval, digits: str = ".3g") -> str:
    """`1.2 [0.8, 1.6]`; without ends only the estimate."""
    if not math.isfinite(interval.low):
        return f"{interval.estimate:{digits}}"
    return f"{interval.estimate:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]"


def plain_ticks(axis: "Axis") -> None:
    """20 and not 2 x 10^1 on a logarithmic axis of few decades; powers of ten where there are many."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else 9.0
    subs = next(subs for most, subs in _TICKS.items() if decades < most)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_locator(NullLocator())


# Where ticks stand in a decade, by the number of decades that the axis has fewer of.
_TICKS = {0.8: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), 2.5: (1.0, 2.0, 5.0), math.inf: (1.0,)}
