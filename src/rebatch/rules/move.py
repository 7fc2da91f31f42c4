"""A transfer's start and goal, with the facts that are known on the way; and what a rule is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from rebatch.errors import RequestError
from rebatch.fields import require_types, show_given, show_value
from rebatch.interval import Interval
from rebatch.knee import Knee, Known
from rebatch.noise_course import NoiseCourse
from rebatch.price import Expected, Sizes, Stage, expected_along, sizes, stages
from rebatch.recipe import Lamb, Lars, Lion, Muon, Recipe

Evidence = Literal["strong", "some", "weak"]

# Optimizers whose transfers few have studied: what holds for SGD or AdamW is carried over to them.
SELDOM_MOVED = (Lion, Lars, Lamb, Muon)


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured of a run and helps to move its recipe; each may be left out.

    Attributes:
        noise_scale: tr(Sigma)/|G|^2 in examples (`rebatch measure noise-scale`), a number or its interval. It grows
            along a run: that of the whole run, which the command prints last; early it is too small, late too large.
        noise_course: in its place, how it drifts along the run (`rebatch.noise_course.read_noise_course`).
        critical_batch_size: measured with branches, in examples (`rebatch measure critical-batch-size`).
        knee: how the best rate bends over the batch size (`rebatch.knee`), from a sweep or a law.
        knee_from: which of them, "unknown" for a guess; it says how far the rate may be off.
        top_eigenvalue: of the mean loss's Hessian at the rate that was tuned (`rebatch measure limits`).
        contrastive: the loss is one over pairs of a batch's examples, which nothing else shows: no rule holds then.
    """

    noise_scale: float | Interval | None = None
    noise_course: NoiseCourse | None = None
    critical_batch_size: float | Interval | None = None
    knee: Knee | None = None
    knee_from: Known = "law"
    top_eigenvalue: float | None = None
    contrastive: bool = False

    def __post_init__(self) -> None:
        require_types(self, "facts")
        for name in ("noise_scale", "critical_batch_size", "top_eigenvalue"):
            _require_positive(name, getattr(self, name))
        if self.noise_scale is not None and self.noise_course is not None:
            raise RequestError("noise_scale and noise_course each give the noise scale; use one of them")
        if isinstance(self.noise_scale, float) and math.isinf(self.noise_scale):
            raise RequestError("noise_scale must be finite, got inf; leave it out if it is unknown")

    @property
    def noise(self) -> Interval | None:
        """The noise scale, with its interval where there is one; of the whole run."""
        return as_interval(self.noise_scale) if self.noise_course is None else self.noise_course.whole

    @property
    def critical(self) -> Interval | None:
        """The critical batch size: as measured, else the noise scale in its place."""
        return self.noise if self.critical_batch_size is None else as_interval(self.critical_batch_size)

    @property
    def critical_course(self) -> tuple[tuple[float, Interval], ...] | None:
        """The same along the run: shares of its examples, and the critical batch size in each."""
        if self.critical_batch_size is None and self.noise_course is not None:
            return self.noise_course.parts
        return None if self.critical is None else ((1.0, self.critical),)


def require_facts(facts: object) -> None:
    """`facts` are such, or None.

    Raises:
        RequestError: they are a table or a number.
    """
    if not (facts is None or isinstance(facts, Facts)):
        raise RequestError(f"facts must be Facts, got {show_given(facts)}; write facts=Facts(noise_scale=B)")


def _require_positive(name: str, value: float | Interval | None) -> None:
    """A number above 0, or an interval around one whose bounds may be 0 or inf; nan is neither."""
    if value is None:
        return
    if isinstance(value, Interval):
        wrong = [end for end in (value.low, value.estimate, value.high) if not end >= 0.0]
    else:
        wrong = [] if value > 0.0 else [value]
    if wrong:
        raise RequestError(f"{name} must be positive, got {show_value(wrong[0])}; leave it out if it is unknown")
    if isinstance(value, Interval) and value.estimate == 0.0:
        raise RequestError(f"the estimate of {name} must be positive, got 0; leave it out if it is unknown")


def as_interval(value: float | Interval | None) -> Interval | None:
    """A number is an interval without width."""
    return value if value is None or isinstance(value, Interval) else Interval(value, value, value)


@dataclass(frozen=True)
class Move:
    """Where a transfer starts, where it goes, and the facts that are known on the way.

    `tuned` is the recipe somebody tuned, `batch_size` the new batch size, `examples` the size N of the training set.
    """

    tuned: Recipe
    batch_size: int
    examples: int | None = None
    facts: Facts = field(default_factory=Facts)

    @property
    def kappa(self) -> float:
        """New batch size over old."""
        return self.batch_size / self.tuned.batch_size

    def require_examples(self, rule: str) -> int:
        """N, or one line that says which rule needs it."""
        if self.examples is None:
            raise RequestError(
                f"{rule} needs the number of training examples; give --examples N or --task T "
                "(in Python: examples=N), or choose rules that do without"
            )
        return self.examples

    def require_noise_scale(self, rule: str) -> float:
        """B_n, or one line that says which rule needs it."""
        if self.facts.noise is None:
            raise RequestError(
                f"{rule} needs the noise scale; measure it (rebatch measure noise-scale) and give --noise-scale B "
                "(in Python: facts=Facts(noise_scale=B)), or choose rules that do without"
            )
        return self.facts.noise.estimate

    def stages(self, after: Sizes | None = None) -> list[Stage]:
        """The run by batch sizes, tuned and `after` (by default kappa times as large), and critical batch size.

        Empty where neither that nor the noise scale is known, or where the loss itself is another.
        """
        before, course = sizes(self.tuned), self.facts.critical_course
        if course is None or self.facts.contrastive:
            return []
        return stages(before, after or [(start, self.kappa * size) for start, size in before], course)

    @property
    def expected(self) -> Expected | None:
        """What the same loss takes; None where that is not known."""
        found = self.stages()
        return expected_along(found) if found else None

    def gain(self, noise_scale: float) -> float:
        """(1 + B_n/B) / (1 + B_n/B'): what a step of B' examples is worth in steps of B.

        Where N is known, with 1/B - 1/N for 1/B: drawn without replacement, a batch of N has no noise. A noise scale of
        inf (a measurement that says "at least") is the limit of it.
        """
        floor = 0.0 if self.examples is None else 1.0 / self.examples
        old, new = (max(0.0, 1.0 / size - floor) for size in (self.tuned.batch_size, self.batch_size))
        if math.isinf(noise_scale):
            return old / new if new > 0.0 else math.inf
        return (1.0 + noise_scale * old) / (1.0 + noise_scale * new)


def no_bounds(_: Recipe, __: Move) -> Interval | None:
    """A rule that does not say how far the best rate may lie from its own."""
    return None


def no_doubts(_: Recipe, __: Move) -> Sequence[str]:
    """A rule without doubts of its own."""
    return ()


@dataclass(frozen=True)
class Rule:
    """One rule of transfer: `apply` maps (recipe, move) to a recipe and changes only the fields it `sets`.

    Attributes:
        why: one sentence on the change, for the move at hand.
        doubts: sentences that warn of this move, given the recipe that the rules made.
        bounds: where the best learning rate lies, with 90 % confidence, given that recipe; None where nobody knows.
        formula: what it does, in symbols.
        source: who found it.
        holds: under which condition.
        evidence: how well later work bears it out.
    """

    name: str
    sets: tuple[str, ...]
    apply: Callable[[Recipe, Move], Recipe]
    why: Callable[[Move], str]
    doubts: Callable[[Recipe, Move], Sequence[str]] = no_doubts
    bounds: Callable[[Recipe, Move], Interval | None] = no_bounds
    formula: str = ""
    source: str = ""
    holds: str = ""
    evidence: Evidence | Literal[""] = ""

    def evidence_for(self, tuned: Recipe) -> Evidence | Literal[""]:
        """How well it is borne out for the recipe's optimizer: weakly, where few have moved such an optimizer."""
        moves_optimizer = any(field.startswith("optimizer.") or field == "schedule.warmup" for field in self.sets)
        return "weak" if moves_optimizer and isinstance(tuned.optimizer, SELDOM_MOVED) else self.evidence
