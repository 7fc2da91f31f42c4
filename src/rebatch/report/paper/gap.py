"""`hoffer-gap`: the arms of Table 1 beside the published row, and the claims."""

from typing import TYPE_CHECKING

from rebatch.report.paper.material import Material
from rebatch.report.paper.rows import rows_figure
from rebatch.study.studies.hoffer_2017.common import PUBLISHED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(material: Material) -> "Figure | None":
    """Arms and claims; stars are published numbers."""
    return rows_figure(material, PUBLISHED.get(material.plan.task, {}))
