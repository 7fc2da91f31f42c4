"""`hoffer-gap`: the arms of Table 1 beside the published row, and the claims."""

from typing import TYPE_CHECKING

from rebatch.report.paper.material import Material
from rebatch.report.paper.rows import rows_figure
from rebatch.study.studies.hoffer_2017.common import GBN, LARGE, LR, RA, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Hoffer et al. (2017), Table 1 and the ImageNet table at batch 4096: validation accuracy in percent, which on these
# data is that of the test split; no seeds or intervals were given.
TABLE_1: dict[str, tuple[float, float, float, float, float]] = {
    "mnist/f1": (98.27, 97.05, 97.55, 97.60, 98.53),
    "cifar10/c1": (87.80, 83.95, 86.15, 86.4, 88.20),
    "cifar10/resnet44": (92.83, 86.10, 89.30, 90.50, 93.07),
    "cifar10/vgg": (92.30, 84.1, 88.6, 91.50, 93.03),
    "cifar100/c3": (61.25, 51.50, 57.38, 57.5, 63.20),
    "cifar100/wrn16-4": (73.70, 68.15, 69.05, 71.20, 73.57),
    "imagenet/alexnet": (57.10, 41.23, 53.25, 54.92, 59.5),
}


def published_row(task: str) -> dict[str, float]:
    """The published accuracies of a task by arm; empty where the paper has no such row.

    >>> published_row("mnist/f1")["large_batch"], published_row("digits/mlp")
    (97.05, {})
    """
    return dict(zip((SMALL, LARGE, LR, GBN, RA), TABLE_1[task], strict=True)) if task in TABLE_1 else {}


def figure(material: Material) -> "Figure | None":
    """Arms and claims; stars are published numbers."""
    return rows_figure(material, published_row(material.plan.task))
