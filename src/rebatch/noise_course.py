"""How does the noise scale drift along a run? What `rebatch measure noise-scale --json` wrote, for a transfer to read.

Rules that need one number get that of the whole run, the price is summed over its windows. The noise scale of the whole
run is a ratio of sums: with tr(Sigma)_i and |G|^2_i the means over window i, which has the share w_i of the examples,

    sum_i w_i tr(Sigma)_i / sum_i w_i |G|^2_i.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from rebatch.errors import RequestError
from rebatch.fields import require_types
from rebatch.files import decoded
from rebatch.interval import Interval
from rebatch.recipe import Recipe, Sgd
from rebatch.recipe_file import field_values, from_table, spelled

Norm = Literal["euclidean", "adam"]


class NoiseCourse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The noise scale of the whole run and of its windows, in examples, with 95 % intervals.

    Attributes:
        whole: what rules get that need one number.
        parts: (share of the run's examples, noise scale) of each window in turn; shares add up to 1, and a window that
            says nothing has the bounds 0 and inf.
        source: where it was measured, in words.
    """

    whole: Interval
    parts: tuple[tuple[float, Interval], ...]
    source: str = ""

    def __post_init__(self) -> None:
        require_types(self, "noise_course")
        if not self.parts or not math.isclose(math.fsum(share for share, _ in self.parts), 1.0, rel_tol=1e-6):
            raise RequestError("noise_course.parts must be windows whose shares of the run add up to 1")
        for share, part in (*self.parts, (1.0, self.whole)):
            if not (share > 0.0 and 0.0 <= part.low <= part.estimate <= part.high):
                raise RequestError(f"a share of noise_course must be positive, its bounds rise, got {share:g}, {part}")
        if self.whole.estimate == 0.0:
            raise RequestError("the estimate of noise_course.whole must be positive, got 0; leave it out if unknown")

    def __str__(self) -> str:
        ends = f"{in_words(self.parts[0][1])} in its first part, {in_words(self.parts[-1][1])} in its last"
        return f"{in_words(self.whole)} over the whole run, {ends}"


def in_words(noise: Interval) -> str:
    """With its interval, where it has bounds.

    >>> in_words(Interval(620.0, 80.4, math.inf)), in_words(Interval(30.0, 20.0, 50.0))
    ('at least 80.4', '30 [20, 50]')
    """
    if math.isinf(noise.high):
        return f"at least {noise.low:.3g}" if noise.low > 0.0 else "not resolved"
    return f"{noise.estimate:.3g} [{noise.low:.3g}, {noise.high:.3g}]"


class _Bounds(msgspec.Struct):
    """An interval in JSON, which has no infinity: a bound that is null is open."""

    estimate: float
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        known = [end for end in (self.low, self.estimate, self.high) if end is not None]
        if known != sorted(known):
            raise ValueError(f"bounds must rise, got {', '.join(f'{end:g}' for end in known)}")

    @property
    def half_width(self) -> float:
        return math.inf if self.high is None else self.high - self.estimate


class _Estimate(msgspec.Struct):
    """`rebatch.noise_scale.NoiseScaleEstimate` in JSON, where inf and nan are null."""

    estimate: float | None
    low: float | None
    high: float | None
    trace: _Bounds
    square: _Bounds


class _Look(msgspec.Struct):
    """`rebatch.study.noise_along.Look`, as far as a transfer reads it."""

    examples: int
    noise_scale: _Estimate | None


class _Document(msgspec.Struct):
    """What the command writes; `examples` are those of the whole run."""

    task: str
    seed: int
    norm: Norm
    recipe: dict[str, Any]
    looks: list[_Look]
    examples: int | None = None


def read_noise_course(path: Path, tuned: Recipe, task: str | None = None) -> NoiseCourse:
    """Read what `rebatch measure noise-scale --json` wrote of a run of `tuned`.

    Args:
        task: refuse a run of another task.

    Raises:
        RequestError: no such file, a file of another shape, a run of another recipe or task, no noise scale in it.
    """
    try:
        found = decoded(path.read_bytes(), _Document)
    except OSError as error:
        raise RequestError(f"cannot read the noise scale {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:  # what is no JSON, and what has another shape
        raise RequestError(
            f"{path} is not what `rebatch measure noise-scale --json` writes of a run: {_first_line(error)}"
        ) from None
    try:
        _require_same_run(found, tuned, task)
        return _course(found, str(path))
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def whole_run(document: bytes) -> Interval:
    """The noise scale of the whole run, of what `rebatch measure noise-scale --json` writes.

    Raises:
        RequestError: the run says nothing of it, or did not reach its end.
    """
    return _course(decoded(document, _Document), "").whole


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _require_same_run(found: _Document, tuned: Recipe, task: str | None) -> None:
    """The course belongs to the weights that were passed: to the whole recipe, and to the task."""
    if task not in (None, found.task):
        raise RequestError(f"the run is one of {found.task}, and --task is {task}; measure the noise scale of that")
    if found.norm == "adam" and isinstance(tuned.optimizer, Sgd):
        raise RequestError("the noise scale is in Adam's norm, and optimizer.type is 'sgd'; measure it without --norm")
    there, here = field_values(from_table(found.recipe)), field_values(tuned)
    for name in dict.fromkeys([*here, *there]):
        if there.get(name) != here.get(name):
            raise RequestError(
                f"the run had {name} {spelled(there.get(name))}, and the recipe that was tuned has "
                f"{spelled(here.get(name))}: its noise scale took another course; measure it with --recipe RECIPE.toml"
            )


def _course(found: _Document, source: str) -> NoiseCourse:
    seen = [look.examples for look in found.looks]
    shares = _shares(seen)
    if found.examples is not None and seen[-1] < found.examples:
        raise RequestError(
            f"the looks end after {seen[-1]:,} of the run's {found.examples:,} examples (did it diverge?), and a price "
            "is summed over all of them; measure a run that reaches its end"
        )
    whole = _whole([(share, look.noise_scale) for share, look in zip(shares, found.looks, strict=True)])
    parts = tuple((share, _part(look.noise_scale, whole)) for share, look in zip(shares, found.looks, strict=True))
    where = f"{source} ({found.task}, seed {found.seed}, {len(parts)} windows)"
    return NoiseCourse(whole=whole, parts=parts, source=where)


def _shares(seen: Sequence[int]) -> list[float]:
    """Of each window, from the examples seen at its end."""
    if not seen or min(stop - start for start, stop in pairwise([0, *seen])) <= 0:
        raise RequestError("looks must be one or more, each after more examples than the one before")
    return [(stop - start) / seen[-1] for start, stop in pairwise([0, *seen])]


def _whole(looks: Sequence[tuple[float, _Estimate | None]]) -> Interval:
    """The ratio of sums, which windows that say nothing are left out of.

    With A and C the sums and a and c their half-widths, those of independent windows in quadrature, the ratio lies
    between (A - a)/(C + c) and (A + a)/(C - c): Fieller's interval for the least lucky correlation of the two.
    """
    known = [(share, each) for share, each in looks if each is not None]
    if not known:
        raise RequestError("no window has a noise scale: too few steps in each; measure with fewer --looks")
    trace, square = (_sum([(share, getattr(each, name)) for share, each in known]) for name in ("trace", "square"))
    if trace.high < 0.0 or square.high < 0.0:
        raise RequestError("no noise scale: |G|^2 or tr(Sigma) is negative beyond chance (batch norm, or clipping?)")
    if trace.estimate <= 0.0:
        raise RequestError("no noise scale: tr(Sigma) is not told from 0; measure a longer run")
    estimate = trace.estimate / square.estimate if square.estimate > 0.0 else math.inf
    high = trace.high / square.low if square.low > 0.0 else math.inf
    return Interval(estimate, max(0.0, trace.low) / square.high, high)


def _sum(terms: Sequence[tuple[float, _Bounds]]) -> Interval:
    center = math.fsum(share * each.estimate for share, each in terms)
    reach = math.hypot(*(share * each.half_width for share, each in terms))
    return Interval(center, center - reach, center + reach)


def _part(found: _Estimate | None, whole: Interval) -> Interval:
    """A window's noise scale; one that says nothing, or cannot be, may be any, and the whole run's for an estimate."""
    if found is None or found.low is None:
        return Interval(whole.estimate, 0.0, math.inf)
    open_end = [math.inf if end is None else end for end in (found.estimate, found.high)]
    return Interval(open_end[0], found.low, open_end[1])
