"""How does a curve bend that falls as 1/B far below one batch size and is flat far above it?

    (1 + (K/B)^p)^(1/p) = exp(ramp(ln(K/B), p))

Steps to a loss bend so at the critical batch size, the best learning rate, upside down, at its knee. The larger p, the
sharper: a hyperbola at 1, a corner at inf. NumPy is imported where arrays come: a transfer needs none.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# How steps to a loss bend. The hyperbola of McCandlish et al. (2018) is p = 1; on the exact quadratic model, each batch
# size at its best constant rate, it is off by up to 25 % near the critical batch size, and p = 1.4 by 8 %, with
# momentum and without (`tests/test_price.py`).
BEND = 1.4
HYPERBOLA = 1.0


def ramp(x: float, bend: float) -> float:
    """ln(1 + e^(p x)) / p without overflow: x far above 0, nothing far below.

    >>> round(ramp(0.0, 1.0), 6), ramp(700.0, 1.4), ramp(-3.0, math.inf)
    (0.693147, 700.0, 0.0)
    """
    if math.isinf(bend):
        return max(0.0, x)
    return max(0.0, x) + math.log1p(math.exp(-abs(bend * x))) / bend


def ramps(x: "Array", bend: float) -> "Array":
    """`ramp` of each number of an array."""
    import numpy as np

    return np.maximum(0.0, x) if math.isinf(bend) else np.logaddexp(0.0, bend * x) / bend
