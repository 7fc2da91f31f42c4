"""Which figure a study has, by its name; and the SVG of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rebatch.report.paper import (
    bagging,
    courses,
    diffusion,
    distance,
    gap,
    gradient_error,
    hardware_batch,
    increments,
    landscape,
    momentum_reset,
    page_batch,
    page_directions,
    page_forgetting,
    page_sums,
    page_sweep,
    quadratic_model,
    rate_sweep,
    saddle_escape,
    small_batches,
    walk,
)
from rebatch.report.paper.canvas import style, svg_bytes
from rebatch.report.paper.material import Material
from rebatch.report.paper.rows import rows_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A study that is not here has its arms and claims drawn; so has one whose own figure has nothing to show.
FIGURES: "dict[str, Callable[[Material], Figure | None]]" = {
    "hoffer-gap": gap.figure,
    "hoffer-distance": distance.figure,
    "hoffer-regime": courses.regime_figure,
    "hoffer-overfit": courses.overfit_figure,
    "hoffer-landscape": landscape.figure,
    "random-walk": walk.figure,
    "hoffer-momentum-reset": momentum_reset.figure,
    "hoffer-diffusion": diffusion.figure,
    "hoffer-increments": increments.figure,
    "page-batch": page_batch.figure,
    "page-sweep": page_sweep.figure,
    "page-forgetting": page_forgetting.figure,
    "page-sums": page_sums.figure,
    "page-directions": page_directions.figure,
    "gradient-error": gradient_error.figure,
    "rate-sweep": rate_sweep.figure,
    "saddle-escape": saddle_escape.figure,
    "quadratic-model": quadratic_model.figure,
    "hardware-batch": hardware_batch.figure,
    "bagging": bagging.figure,
    "small-batches": small_batches.figure,
}


def svg(material: Material) -> bytes | None:
    """The figure of a study; `None` where no run has left anything to show."""
    with style():
        figure = FIGURES.get(material.plan.study, rows_figure)(material)
        return None if figure is None else svg_bytes(figure)
