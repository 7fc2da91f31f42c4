"""`bagging`: variance of predictions and test accuracy of each kind of predictor, at both schedules."""

from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import color, notes, panels, whiskers
from rebatch.report.paper.material import Material
from rebatch.study.probes import Bagging
from rebatch.study.studies.mini_batches.bagging import ARMS, KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "last": "one run",
    "averaged": "average of its weights",
    "long": "one run of 5 times the steps",
    "bootstrap": "one bootstrap model",
    "ensemble": "mean of 5 bootstrap models",
}
TITLES = {"reference": "rate falls to a hundredth", "constant_rate": "constant rate"}


def by_kind(material: Material, number: str, arm: str) -> dict[str, Interval]:
    """`variance` or `accuracy` of each kind of predictor of an arm, means over seeds."""
    found = {kind: material.quantity(f"{number}:{kind}:{arm}") for kind in KINDS}
    return {kind: mean for kind, mean in found.items() if mean is not None}


def figure(material: Material) -> "Figure | None":
    """Two columns of whiskers, a color for each schedule."""
    variance = {arm: by_kind(material, "variance", arm) for arm in ARMS}
    if not any(variance.values()):
        return None
    whole, ((left, right),) = panels(1, 2, 9.4, 3.7, material.title)
    _draw(left, variance)
    _draw(right, {arm: by_kind(material, "accuracy", arm) for arm in ARMS})
    left.set(title="how far predictions scatter", xlabel="variance of predicted probabilities, added over classes")
    left.set_xlim(left=0.0)
    right.set(title="accuracy", xlabel="test accuracy (%)")
    right.set_yticklabels([])
    probe = material.planned(ARMS[0]).probe
    assert isinstance(probe, Bagging)
    count = max(len(arm.runs) for arm in material.arms)
    notes(
        whole,
        f"Means over seeds, n = {count}, 95 % intervals; {probe.repetitions} repetitions each, on halves of the "
        f"training set. Average: decay {probe.decay:g} a step.",
        left,
        columns=2,
    )
    return whole


def _draw(axes: "Axes", arms: dict[str, dict[str, Interval]]) -> None:
    for at, (arm, found) in enumerate(arms.items()):
        for kind, mean in found.items():
            whiskers(axes, mean, KINDS.index(kind) + 0.2 * (at - 0.5), color(at), size=5)
        axes.plot([], [], marker="o", color=color(at), label=TITLES[arm])
    axes.set_yticks(range(len(KINDS)), [NAMES[kind] for kind in KINDS])
    axes.set_ylim(len(KINDS) - 0.5, -0.5)
