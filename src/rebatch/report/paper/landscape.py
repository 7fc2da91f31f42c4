"""`hoffer-landscape`: how the loss spreads with the distance from the start, with the Taylor line, log-log."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import QUIET, band, color, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord, geometric_interval
from rebatch.study.studies.hoffer_2017.landscape import BATCH, FULL, LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {FULL: "the loss of many examples", BATCH: "the loss of a fresh mini-batch"}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Root mean square change of the loss by distance, geometric mean over `n` nets, and the Taylor line."""

    n: int
    distances: tuple[float, ...]
    rms: tuple[Interval, ...]
    taylor: tuple[float, ...]


def spread(arm: ArmRecord) -> Spread | None:
    """Bin by bin over the runs that have all bins; `None` where none has."""
    tables = [run.rows for run in arm.runs if run.rows and "rms" in run.rows[0]]
    bins = max(map(len, tables), default=0)
    whole = [table for table in tables if len(table) == bins]
    if not whole:
        return None
    columns = {
        name: [[table[place][name] for table in whole] for place in range(bins)] for name in ("step", "rms", "taylor")
    }
    return Spread(
        n=len(whole),
        distances=tuple(sum(column) / len(column) for column in columns["step"]),
        rms=tuple(geometric_interval(column) for column in columns["rms"]),
        taylor=tuple(sum(column) / len(column) for column in columns["taylor"]),
    )


def figure(material: Material) -> "Figure | None":
    """A panel per way of taking the loss."""
    found = {arm.name: each for arm in material.arms if (each := spread(arm)) is not None}
    if not found:
        return None
    whole, (row,) = panels(1, len(found), 4.5 * len(found), 4.4, material.title)
    for place, ((name, each), axes) in enumerate(zip(found.items(), row, strict=True)):
        band(axes, each.distances, each.rms, color(place))
        estimates = [mean.estimate for mean in each.rms]
        axes.plot(each.distances, estimates, "o-", markersize=3.5, color=color(place), label=f"measured (n = {each.n})")
        axes.plot(each.distances, each.taylor, color=QUIET, linestyle=(0, (4, 2)), label="Taylor line z |grad L| / √D")
        axes.set(xscale="log", yscale="log", xlabel="distance z from the initial weights")
        axes.set_title(NAMES.get(name, name) + _exponents(material, "" if name == FULL else f"{name}:"))
        plain_ticks(axes.xaxis)
        axes.legend(loc="upper left")
    row[0].set_ylabel("root mean square change of the loss (nats)")
    notes(
        whole,
        "Bins of random directions; geometric mean over n nets, band: its 95 % interval. alpha: twice the slope in a "
        "range of z; 2 is a straight line of slope 1.",
    )
    return whole


def _exponents(material: Material, prefix: str) -> str:
    known = {label: material.quantity(f"{prefix}alpha:{label}") for label in LABELS}
    words = [f"{mean.estimate:.2f} (z {label})" for label, mean in known.items() if mean is not None]
    return f"\nalpha {', '.join(words)}" if words else ""
