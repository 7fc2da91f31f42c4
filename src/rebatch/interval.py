"""An estimate and how sure it is; apart from `rebatch.statistics`, so that no number crunching is loaded with it."""

import msgspec


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimate with the bounds of its confidence interval; `low` and `high` may be infinite."""

    estimate: float
    low: float
    high: float
