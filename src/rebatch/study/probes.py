"""What a run may do instead of a training: each a frozen table of numbers, done by the function of its type."""

import msgspec


class _Probe(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """How probes are written in a run's spec."""


class Landscape(_Probe, frozen=True, tag="landscape"):
    """The spread of the loss around the initial weights (Hoffer et al., 2017, Appendix B).

    Attributes:
        draws: random directions, each with one distance, per range of distances.
        ranges: (low, high) of the distances z ~ U(low, high); the paper's is (0, 10).
        examples: how many training examples the loss is taken over.
        batch_size: where given, every loss is that of a fresh batch of this size.
        glorot: draw the weights of linear and convolution layers anew as Glorot and Bengio (2010) do.
    """

    draws: int = 1000
    ranges: tuple[tuple[float, float], ...] = ((0.0, 10.0),)
    examples: int = 1000
    batch_size: int | None = None
    glorot: bool = True


class RandomWalk(_Probe, frozen=True, tag="random_walk"):
    """A particle in a random potential, one potential per walker (Hoffer et al., 2017, section 3).

    Attributes:
        alpha: E (V(x) - V(y))^2 = scale^2 |x - y|^alpha, in units of the temperature; None for a flat potential.
        scale: how steep the potential is between neighbours.
        sites: of the lattice, an odd number.
        walkers: how many.
        log_times: natural logarithms of the first and the last time.
        points: times, evenly spaced in the logarithm of log t (flat: of t).
    """

    alpha: float | None
    sites: int
    walkers: int
    log_times: tuple[float, float]
    scale: float = 1.0
    points: int = 12


class Increments(_Probe, frozen=True, tag="increments"):
    """Mean and covariance of a single update under the arm's batch size, rate and noise, along the reference run.

    Attributes:
        after: fractions of the reference budget after which the weights are frozen and updates drawn.
        draws: updates per place.
    """

    after: tuple[float, ...] = (0.0, 0.1, 1.0)
    draws: int = 200


class EpochCorrelation(_Probe, frozen=True, tag="epoch_correlation"):
    """The covariance of two batches of one epoch at frozen weights, after a part of the reference run."""

    after: float = 0.1
    epochs: int = 200
    replacement: bool = False


class StepTime(_Probe, frozen=True, tag="step_time"):
    """Time of a training step with ghost batch norm over that with plain batch norm, interleaved in one process."""

    steps: int = 20
    repeats: int = 15


Probe = Landscape | RandomWalk | Increments | EpochCorrelation | StepTime
