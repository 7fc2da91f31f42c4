"""The five figures of a study as HTML: a title, the plot with its data beside it, and how to read it."""

from collections.abc import Sequence

from rebatch.report.figures import (
    ROW_ARM,
    ROW_EFFECT,
    Style,
    accuracy_figure,
    arm_styles,
    distance_figure,
    effects_figure,
    error_figure,
)
from rebatch.report.layout import Figure
from rebatch.report.markup import Html, element, json_for_script, void
from rebatch.report.series import (
    ArmAccuracy,
    ArmRecord,
    Curve,
    arm_accuracy,
    compares_arms,
    comparison,
    distance_curve,
    effect_rows,
    error_curve,
)
from rebatch.report.summary import ClaimSummary, StudySummary
from rebatch.report.terminal import signed
from rebatch.study.plan import Plan

_CURVE_HEIGHT = 480
_ROWS_FRAME = 130  # axis, title and legend of a figure made of rows
_LEGEND_LINE = 29

_READ_ACCURACY = (
    "Large mark and bar: mean over seeds and its 95 % interval (Student's t over seeds; it needs at least two seeds, "
    "and six where all are equal). Small dots below: every seed; a cross is a run that diverged and counts at chance "
    "level. Arms share seeds, so the claims compare them seed by seed: two bars that overlap do not say that the arms "
    "are equal."
)
_READ_EFFECTS = (
    "One row per comparison: the mark is the difference of the two arms' test accuracy over paired seeds, the bar its "
    "interval, adjusted for the number of claims (its level stands in the table). Shaded: the effects that the claim "
    "names, with a line at each margin. A claim is confirmed (filled circle) where the bars of all its rows lie inside "
    "the shade, refuted (cross) where one lies wholly outside, and else undecided (open diamond)."
)
_BAND = (
    "Line: mean over seeds; band: the 95 % interval of that mean at each point alone, missing where it has no ends. "
)
_READ_STEPS = (
    _BAND + "The error is 100 minus the accuracy on the validation split of the training data, so lower is better; one "
    "of 0 has no place on a logarithmic axis. A run that diverged counts with the error of a guess from where it "
    "stopped. Where curves of two batch sizes lie on each other, the number of updates decides, not the batch size."
)
_READ_EXAMPLES = (
    _BAND + "The same errors against the examples seen, that is against the cost of training: what an arm gains to the "
    "right of where another one ends, it pays for in examples."
)
_READ_DISTANCE = (
    _BAND + "How far the weights lie from where they started. A straight line here is a distance that grows as the "
    "logarithm of the steps, as Hoffer et al. (2017, Figure 2) saw it at the initial learning rate; arms on one line "
    "travel alike in equal numbers of updates. Runs that diverged are left out."
)


_NO_RUN = "Nothing to draw: no run has finished yet."
_NO_PAIR = "Nothing to draw: the arms of no claim have finished a seed in common yet."
_NO_ERROR = "Nothing to draw: no finished run was evaluated on validation data."
_NO_DISTANCE = "Nothing to draw: every finished run diverged or wrote no weight distance."


def draw(plan: Plan, summary: StudySummary, arms: Sequence[ArmRecord]) -> dict[str, Html]:
    """The figures by name; one that has nothing to show says why."""
    styles = arm_styles(arm.name for arm in arms)
    finished = any(arm.runs for arm in arms)
    probes = {arm.name for arm in summary.arms if arm.probe}
    accuracies = [arm_accuracy(arm) for arm in arms if arm.name not in probes]
    compared = [claim for claim in summary.claims if any(compares_arms(part.test) for part in claim.parts)]
    sizes = {arm.name: plan.examples_of(arm) for arm in plan.design.arms}
    curves = [
        error_curve(arm, examples=sizes[arm.name], evaluations=plan.design.evaluations, chance=plan.chance)
        for arm in arms
    ]
    distances = [distance_curve(arm, examples=sizes[arm.name]) for arm in arms]
    no_error, no_distance = (_NO_ERROR, _NO_DISTANCE) if finished else (_NO_RUN, _NO_RUN)
    return {
        "accuracy": _accuracy(plan.name, accuracies, styles) if accuracies else Html(""),
        "effects": _effects(plan.name, compared) if compared else Html(""),
        "error-steps": _drawing(
            f"{plan.name}-error-steps",
            "Validation error against steps",
            _curves_label("Validation error in percent against optimizer steps", curves),
            error_figure(curves, styles, against="steps"),
            _READ_STEPS,
            no_error,
        ),
        "error-examples": _drawing(
            f"{plan.name}-error-examples",
            "Validation error against examples",
            _curves_label("Validation error in percent against examples seen", curves),
            error_figure(curves, styles, against="examples"),
            _READ_EXAMPLES,
            no_error,
        ),
        "distance": _drawing(
            f"{plan.name}-distance",
            "Weight distance against steps",
            _curves_label("Distance of the weights from their start against optimizer steps", distances),
            distance_figure(distances, styles),
            _READ_DISTANCE,
            no_distance,
        ),
    }


def _accuracy(name: str, arms: Sequence[ArmAccuracy], styles: dict[str, Style]) -> Html:
    values = "; ".join(
        f"{arm.name} {arm.mean.estimate:.2f} over {len(arm.points)} seeds" for arm in arms if arm.mean is not None
    )
    label = f"Mean test accuracy in percent: {values}."
    figure = accuracy_figure(arms, styles)
    return _drawing(
        f"{name}-accuracy", "Test accuracy", label, figure, _READ_ACCURACY, _NO_RUN, height=ROW_ARM * len(arms)
    )


def _effects(name: str, claims: Sequence[ClaimSummary]) -> Html:
    rows = effect_rows(claims)
    values = "; ".join(f"{row.claim}, {comparison(row.test)}: {signed(row.effect)}, {row.verdict}" for row in rows)
    left_out = [claim.id for claim in claims if claim.id not in {row.claim for row in rows}]
    missing = f" Not shown, since no runs can be paired yet: {', '.join(left_out)}." if left_out else ""
    return _drawing(
        f"{name}-effects",
        "Effects and what was claimed",
        f"Effects in percent points: {values}.",
        effects_figure(rows),
        _READ_EFFECTS + missing,
        _NO_PAIR,
        height=ROW_EFFECT * len(rows),
    )


def _drawing(
    name: str, title: str, label: str, figure: Figure, reading: str, nothing: str, *, height: int | None = None
) -> Html:
    if not figure["data"]:
        return element("figure", element("h4", title), element("p", nothing, class_="notice"))
    legend = 0 if height else _LEGEND_LINE * sum(trace.get("showlegend", True) for trace in figure["data"])
    size = f"--height: {height + _ROWS_FRAME if height else _CURVE_HEIGHT}px; --legend: {legend}px"
    return element(
        "figure",
        element("h4", title),
        _log_choice() if "meta" in figure["layout"] else None,
        element("div", "", class_="plot", role="img", aria_label=label, data_name=name, style=size),
        element("script", json_for_script(figure), type="application/json"),
        element("figcaption", reading),
    )


def _log_choice() -> Html:
    """A box to untick for a linear error axis."""
    return element(
        "label",
        void("input", type="checkbox", class_="log", checked="checked", autocomplete="off"),
        " logarithmic error axis",
    )


def _curves_label(what: str, curves: Sequence[Curve]) -> str:
    ends = "; ".join(f"{each.name} ends at {each.means[-1].estimate:.4g}, n = {each.n}" for each in curves if each.n)
    return f"{what}, mean over seeds: {ends}."
