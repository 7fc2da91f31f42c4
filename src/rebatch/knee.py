"""How does the best learning rate grow with the batch size? As a power of it up to a knee, and from there no more.

    lr(B) ~ (1 + (K/B)^p)^(-a/p):  B^a far below the knee K, constant far above it

SGD, where one gradient's noise limits the rate, has a = 1 and p = 1: lr_max / (1 + B_noise/B), the gain of AdaScale
(Johnson et al., 2020, arXiv 2007.05105). AdamW on language models bends more sharply, below it with a near .8
(`docs/choosing-a-rule.md`). The knee belongs to one training run: it is measured, read off a sweep
(`rebatch.knee_fit`), or guessed from a law, and `DOUBTS` says how far a rate so transferred lies from the best.
"""

import math
from typing import Literal, NamedTuple

import msgspec

from rebatch.bend import ramp
from rebatch.errors import RequestError
from rebatch.fields import require_types, show_value
from rebatch.interval import Interval

Known = Literal["sweep", "law", "unknown"]


class Knee(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The curve of the best learning rate over the batch size, up to a factor.

    Attributes:
        batch_size: K, in what batch sizes are counted in: examples, or tokens. inf: no knee, a power of B throughout.
        exponent: a, with which the rate grows far below K.
        bend: p, how sharply the curve bends at K: 1 over a decade either way, 4 within a factor of 2, inf at once.

    >>> round(Knee(batch_size=1000.0, exponent=1.0, bend=math.inf).factor(250, 4000), 6)
    4.0
    >>> round(Knee(batch_size=math.inf, exponent=0.5).factor(100, 400), 6)
    2.0

    Raises:
        RequestError: a knee that is not positive, an exponent below 0 or not finite, a bend that is not positive.
    """

    batch_size: float
    exponent: float
    bend: float = 1.0

    def __post_init__(self) -> None:
        require_types(self, "knee")
        _require(self.batch_size > 0, "knee.batch_size", "positive", self.batch_size)
        _require(0 <= self.exponent < math.inf, "knee.exponent", "at least 0 and finite", self.exponent)
        _require(self.bend > 0, "knee.bend", "positive", self.bend)

    def factor(self, batch_size: float, new: float) -> float:
        """lr(new) / lr(batch_size) = ((1 + (K/batch_size)^p) / (1 + (K/new)^p))^(a/p).

        factor(a, b) factor(b, c) = factor(a, c), and factor(a, a) = 1.

        Raises:
            RequestError: a batch size that is not positive and finite.
        """
        return math.exp(self.log_rate(new) - self.log_rate(batch_size))

    def log_rate(self, batch_size: float) -> float:
        """ln lr(B) up to a constant: 0 far above the knee; without a knee a ln B."""
        _require(0 < batch_size < math.inf, "batch_size", "positive and finite", batch_size)
        if math.isinf(self.batch_size):
            return self.exponent * math.log(batch_size)
        below = math.log(self.batch_size) - math.log(batch_size)  # the quotient could overflow
        return -self.exponent * ramp(below, self.bend)


class Doubt(NamedTuple):
    """How far a transferred rate lies from the best one: ln of their ratio has mean 0 and this standard deviation,

        s(kappa)^2 = tuned^2 + (exponent ln kappa)^2.

    `tuned` is what remains at a short distance, most of it noise of the two tuned rates; `exponent` what a wrong knee
    or exponent adds with every e-fold of the batch size.
    """

    tuned: float
    exponent: float

    def deviation(self, kappa: float) -> float:
        """s(kappa).

        >>> round(Doubt(0.3, 0.4).deviation(math.e), 6)
        0.5
        """
        _require(0 < kappa < math.inf, "kappa", "positive and finite", kappa)
        return math.hypot(self.tuned, self.exponent * math.log(kappa))


# Scaled so that 1.645 s covers 90 % of the pairs of 17 AdamW language models, kappa 2 to 128, the law fitted without
# the models of that size ("law"), K fitted to the model's other batch sizes ("sweep"), the square root ("unknown"):
# `doubts` in results/benchmarks/step_law.json. Elsewhere they are a guess, and the likelier a low one. Of SGD's gain
# and linear rule "unknown" covers about as many of the pairs of two sweeps: `covered` in rate_rules.json there.
DOUBTS: dict[Known, Doubt] = {
    "sweep": Doubt(tuned=0.22, exponent=0.06),
    "law": Doubt(tuned=0.23, exponent=0.07),
    "unknown": Doubt(tuned=0.46, exponent=0.22),
}


def expected_log_error(kappa: float, known: Known) -> float:
    """The mean of |ln(transferred rate / best rate)|, s sqrt(2/pi) for a normal error; kappa is new over old."""
    return DOUBTS[known].deviation(kappa) * math.sqrt(2.0 / math.pi)


def rate_interval(lr: float, kappa: float, known: Known, level: float = 0.9) -> Interval:
    """Where the best rate lies, given the transferred `lr`: lr exp(+- z s(kappa)), z the normal quantile of `level`.

    Args:
        lr: the rate after the transfer, itself the estimate.
        kappa: new batch size over old.
        known: where the knee came from: a sweep of this run, a law over other runs, or nowhere (the square root).
    """
    from scipy.special import ndtri

    _require(0 < lr < math.inf, "lr", "positive and finite", lr)
    _require(0 < level < 1, "level", "between 0 and 1", level)
    reach = float(ndtri(0.5 + level / 2.0)) * DOUBTS[known].deviation(kappa)
    return Interval(lr, lr * math.exp(-reach), lr * math.exp(reach))


def gain_knee(noise_scale: float) -> Knee:
    """SGD's curve lr_max / (1 + B_noise/B): the knee is the noise scale (AdaScale's gain, arXiv 2007.05105).

    >>> round(gain_knee(100.0).factor(100, 300), 6)  # (1 + 1) / (1 + 1/3)
    1.5
    """
    return Knee(batch_size=noise_scale, exponent=1.0, bend=1.0)


def adam_knee(batch_size: float) -> Knee:
    """AdamW's curve with a knee that is known: exponent and bend are those of the language models' law."""
    return Knee(batch_size=batch_size, exponent=0.75, bend=4.0)


def language_model_knee(tokens: float, parameters: float | None = None) -> Knee:
    """AdamW's curve for a transformer trained on so many tokens; the knee too is in tokens, so count batches in them.

    Without `parameters` K = .58 D^.571 (Step Law, Li et al., 2025, arXiv 2503.04715, there the best batch size). With
    the number N of parameters, embeddings left out, the law fitted to their runs,

        K = 3.3e5 (D / 2e10)^.67 (N / 4e8)^-.455,

    which does better on models left out of the fit (`docs/choosing-a-rule.md`). Seen: N 2e8 to 1.1e9, D 4e9 to 1e11.
    Published exponents of D go from .4 to 1, so farther away K is a guess. The bend of 4 costs little where K is right
    and saves much where it is not.

    >>> round(language_model_knee(2e10, 4e8).batch_size / 2048)  # in sequences of 2,048 tokens
    161
    """
    _require(0 < tokens < math.inf, "tokens", "positive and finite", tokens)
    if parameters is None:
        return adam_knee(0.58 * tokens**0.571)
    _require(0 < parameters < math.inf, "parameters", "positive and finite", parameters)
    knee = 3.3e5 * (tokens / 2e10) ** 0.67 * (parameters / 4e8) ** -0.455
    return Knee(batch_size=knee, exponent=0.85, bend=4.0)


def _require(holds: bool, name: str, limit: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{name} must be {limit}, got {show_value(value)}")
