"""What a run may do instead of a training: each a frozen table of numbers, done by the function of its type."""

from typing import Literal

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


class Throughput(_Probe, frozen=True, tag="throughput"):
    """Examples per second of training at several batch sizes, interleaved in one process.

    Attributes:
        batch_sizes: at least two.
        examples: about so many are trained on in each repeat; its first half warms up.
    """

    batch_sizes: tuple[int, ...]
    examples: int
    repeats: int = 5


class SummedSteps(_Probe, frozen=True, tag="summed_steps"):
    """How far `kappa` steps of plain SGD end from one step on the same examples, the losses summed, in float64.

    Attributes:
        rates: multiples of the arm's rate, rising.
        training_mode: batch norm normalizes each step's batch, as in training; else by the statistics of a fresh net.
    """

    rates: tuple[float, ...]
    kappa: int = 4
    training_mode: bool = False


class PartialTail(_Probe, frozen=True, tag="partial_tail"):
    """What an example of a partial last batch weighs beside the others, in an epoch of a toy regression.

    Attributes:
        examples: of the regression; each has a weight of its own, so it can be seen how far each example moved it.
    """

    examples: int


class Parting(_Probe, frozen=True, tag="parting"):
    """The distance between runs of two batch sizes, from one start on the same examples in the same order.

    Attributes:
        kappa: the larger batch size over the arm's; its rate is scaled linearly.
    """

    kappa: int = 4


class RelativeStep(_Probe, frozen=True, tag="relative_step"):
    """Root mean square of |step| / |w| of the weights before a norm, late in a training by the arm's recipe.

    Attributes:
        after: the fraction of the run after which steps count.
    """

    after: float = 0.5


class Rescaled(_Probe, frozen=True, tag="rescaled"):
    """How far a run ends from one whose weights before a norm start `factor` times as long, in float64.

    Its rate is factor^2 times as high, its weight decay as much lower. All other weights stay where they start.
    """

    factor: float


class GradientErrors(_Probe, frozen=True, tag="gradient_errors"):
    """How far batches' gradients are from the full one, and whether they agree, along a training by the arm's recipe.

    Attributes:
        after: fractions of the run after which the weights are frozen and batches drawn.
        batch_sizes: those whose error is measured, if any.
        share: of the training set, as a batch that is compared with the full gradient and with another such batch.
        draws: batches per size, and pairs of batches, at each place.
        examples: how many examples' own gradients give the covariance's trace; None for all.
        shuffled: train on labels that were permuted once.
    """

    after: tuple[float, ...]
    batch_sizes: tuple[int, ...] = ()
    share: float = 0.01
    draws: int = 200
    examples: int | None = None
    shuffled: bool = False


class ToTarget(_Probe, frozen=True, tag="to_target"):
    """Steps until the validation loss first reaches a target, at a constant rate that is tuned for the arm's batch.

    Attributes:
        target: the loss.
        most: steps after which a training is given up.
        tuning: so many trainings judge each rate that is tried.
        measured: so many others, from other weights and in other orders, are measured at the best rate.
    """

    target: float
    most: int
    tuning: int = 2
    measured: int = 3


SurfaceName = Literal["saddle", "sphere", "double_well"]
"""The losses of `measure.escape`."""


class Escape(_Probe, frozen=True, tag="escape"):
    """Steps to leave a stationary point, at the arm's rate and with the noise of its batch size; no training.

    Attributes:
        surface: which loss, one of `measure.escape.SURFACES`.
        walkers: how many.
        most: steps after which a walker counts as one that never leaves.
        noise: standard deviation of one example's gradient in each coordinate; 0 for the exact gradient.
        spread: standard deviation of the starts around the stationary point.
    """

    surface: SurfaceName
    walkers: int
    most: int
    noise: float = 0.0
    spread: float = 0.0


class QuadraticSteps(_Probe, frozen=True, tag="quadratic_steps"):
    """Steps to a loss in the noisy quadratic model (Zhang et al., 2019), for the arm's batch size and momentum.

    The rate is the best one, whatever the arm's recipe says, and the start theta_i ~ N(0, 1) is the seed's.

    Attributes:
        coordinates: of curvatures 1, 1/2, 1/3, ...
        target: the loss that is to be reached.
        exact: without noise, as if the batch had no end.
    """

    coordinates: int = 10_000
    target: float = 0.01
    exact: bool = False


class Cuts(_Probe, frozen=True, tag="cuts"):
    """One training by the arm's recipe in float64, again and again, its steps cut into micro-batches of each size.

    Attributes:
        micro_batch_sizes: beside the batch size itself, the uncut one; plain batch norm sees micro-batches.
    """

    micro_batch_sizes: tuple[int, ...]


class StepTimes(_Probe, frozen=True, tag="step_times"):
    """Time of a training step by (batch size, micro-batch size), interleaved in one process, whose own time it is.

    Attributes:
        pairs: at least two of them uncut.
        examples: about so many are trained on in each round at each pair.
        rounds: at least six.
    """

    pairs: tuple[tuple[int, int], ...]
    examples: int = 1024
    rounds: int = 9


class KeptImages(_Probe, frozen=True, tag="kept_images"):
    """What VGG-16 puts out for an image of 224 x 224, and what torch keeps of it for the way back.

    Attributes:
        most_images: the seed draws from 1 to so many.
    """

    most_images: int = 64


class Bagging(_Probe, frozen=True, tag="bagging"):
    """How far predictions on the test set scatter: of runs by the arm's recipe, of averages, of bagged ensembles.

    Attributes:
        repetitions: at least two, each on another half of the training set.
        models: of an ensemble, each trained on a sample with replacement.
        decay: per step, of the average of the weights.
    """

    repetitions: int
    models: int
    decay: float


Probe = (
    Landscape
    | RandomWalk
    | Increments
    | EpochCorrelation
    | StepTime
    | Throughput
    | SummedSteps
    | PartialTail
    | Parting
    | RelativeStep
    | Rescaled
    | GradientErrors
    | Escape
    | QuadraticSteps
    | Cuts
    | StepTimes
    | KeptImages
    | Bagging
    | ToTarget
)
