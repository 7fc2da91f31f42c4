"""Averages of weights over steps: how much of the newest weights enters the average after a step?

What a run is evaluated at, and ends with, is then the average. A decay is counted per step, whatever `every`; to
remember as many examples, a batch kappa times as large wants decay^kappa (rule `average_half_life`).
"""

import math

import msgspec

from rebatch.errors import RequestError
from rebatch.fields import require_types


class _Averaging(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """How averages are written in a recipe file."""


class Ema(_Averaging, frozen=True, tag="ema"):
    """An exponential moving average of the weights after each `every`-th step so far, which training never sees.

    Weights of s steps ago weigh decay^s, and all together 1, so that nothing of the start remains. (Page, 2019, part 8,
    starts from the first weights and keeps decay^t of them.)
    """

    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        _check(self, self.decay, self.every)


class Lookahead(_Averaging, frozen=True, tag="lookahead"):
    """Each `every`-th step slow weights move toward the weights, which go on from there.

    slow = rho slow + (1 - rho) w, then w = slow, with rho = decay^every (t / T)^power after step t of T, or with a
    batch schedule after t of T examples: the run moves fast at first and averages strongly at its end. So does
    airbench94 (Jordan, 2024); Zhang et al. (2019, arXiv 1907.08610) keep rho constant, which is power 0.
    """

    decay: float = 0.95
    every: int = 5
    power: float = 3.0

    def __post_init__(self) -> None:
        _check(self, self.decay, self.every)
        if not (self.power >= 0 and math.isfinite(self.power)):
            raise RequestError(f"averaging.power must be at least 0 and finite, got {self.power}")


Averaging = Ema | Lookahead


def share_of_newest(averaging: Averaging, steps: float, progress: float) -> float:
    """The share of the newest weights in the new average, after `steps` steps of its decay and `progress` of the run.

    >>> share_of_newest(Ema(decay=0.5), 1, 0.1), share_of_newest(Ema(decay=0.5), 2, 0.2)
    (1.0, 0.6666666666666666)
    >>> share_of_newest(Lookahead(decay=0.5, every=1), 10, 1.0)
    0.5
    """
    kept = math.pow(averaging.decay, averaging.every)
    match averaging:
        case Ema(every=every):
            return (1 - kept) / (1 - math.pow(kept, steps / every))
        case Lookahead(power=power):
            return 1 - kept * math.pow(progress, power)


def _check(averaging: msgspec.Struct, decay: float, every: int) -> None:
    require_types(averaging, "averaging")
    if not 0 < decay < 1:
        raise RequestError(f"averaging.decay must be over 0 and under 1 (it is per step), got {decay}")
    if every < 1:
        raise RequestError(f"averaging.every must be at least 1 step, got {every}")
