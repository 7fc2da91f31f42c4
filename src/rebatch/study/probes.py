"""What a run may do instead of a training: each a frozen table of numbers, done by the function of its name."""

import msgspec


class _Probe(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """How probes are written in a run's spec."""


class Landscape(_Probe, frozen=True, tag="landscape"):
    """The loss around the initial weights (Hoffer et al., 2017, Appendix B): draws (z, L(w_0 + z v) - L(w_0)).

    Attributes:
        draws: how many random directions v with a distance z ~ U(0, reach) each.
        reach: the largest distance.
        examples: how many training examples the loss is taken over; 0 for all.
    """

    draws: int = 1000
    reach: float = 10.0
    examples: int = 0


Probe = Landscape
