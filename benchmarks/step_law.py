"""What does a learning-rate rule cost language models under AdamW? Regret over a table of finished runs, none trained.

    python benchmarks/step_law.py dense.csv --json > step_law.json

Takes any table with the columns group, N (parameters), D (training tokens), lr, batch_tokens and loss, such as that of
Step Law (Li et al., 2025, arXiv 2503.04715; `dense_lr_bs_loss.csv` of github.com/step-law/steplaw, with group names).
The rate tuned at one batch size of a group is carried to another, at least twice as large or small; the regret is the
loss there, read between the runs, above the lowest. The tuned rate is the vertex of the parabola in ln lr through the
best run and its neighbors; batch sizes whose best rate is an end of those tried do not count. Beyond the rates tried
the loss is held, which flatters a rule: `beyond` is the share of such pairs. Intervals are 95 %, of a bootstrap over
groups.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from knee_law import (
    BENDS,
    FEWEST,
    Array,
    Curve,
    LeftOut,
    Pair,
    calibrate,
    fit_law,
    leave_out,
    pairs_of,
    read_curves,
)
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.knee import Knee, language_model_knee
from rebatch.knee_fit import SHAPES, Prior, fit_knee, predict
from rebatch.study.environment import environment
from rebatch.sweeps import Run, Sweep, best_rates

DRAWS = 4_000
# How far apart the batch sizes of a pair lie; of one and the same distance up and down.
DISTANCES = (2, 4, 8, 16, 256)
GOALS = {"up": 0.0032, "down": 0.0019, "coverage": [0.88, 0.92]}


def published(exponent: float, bend: float) -> Callable[[Pair], float]:
    """The rule with the published law K = .58 D^.571."""

    def carry(pair: Pair) -> float:
        knee = Knee(batch_size=language_model_knee(pair.old.tokens).batch_size, exponent=exponent, bend=bend)
        return pair.old.tuned + math.log(knee.factor(pair.old.batch_size, pair.new.batch_size))

    return carry


def default(pair: Pair) -> float:
    """What `rebatch.knee` offers where only the number of training tokens is known."""
    knee = language_model_knee(pair.old.tokens)
    return pair.old.tuned + math.log(knee.factor(pair.old.batch_size, pair.new.batch_size))


def power(exponent: float) -> Callable[[Pair], float]:
    return lambda pair: pair.old.tuned + exponent * pair.log_kappa


RULES: dict[str, Callable[[Pair], float]] = {
    "constant": power(0.0),
    "kappa^.25": power(0.25),
    "sqrt": power(0.5),
    "linear": power(1.0),
    "published K, hinge .65": published(0.65, math.inf),
    "published K, hinge .75": published(0.75, math.inf),
    "published K, smooth .75": published(0.75, 1.0),
    "published K, default": default,
}

# What is left out, and whether K may depend on the number of parameters; bends among which the others choose.
FITTED: dict[str, tuple[Callable[[Curve], object], bool, tuple[float, ...]]] = {
    "fitted K(D), groups left out": (lambda curve: curve.group, False, BENDS),
    "fitted K(D, N), groups left out": (lambda curve: curve.group, True, BENDS),
    "fitted K(D, N), bend 4, groups left out": (lambda curve: curve.group, True, (4.0,)),
    "fitted K(D), sizes left out": (lambda curve: curve.parameters, False, BENDS),
    "fitted K(D, N), sizes left out": (lambda curve: curve.parameters, True, BENDS),
}


def bootstrap(values: Array, owners: NDArray[np.str_]) -> Interval:
    """The mean over pairs, resampled by groups."""
    names = sorted(set(owners))
    sums = np.array([values[owners == name].sum() for name in names])
    counts = np.array([(owners == name).sum() for name in names])
    chosen = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    low, high = np.percentile(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def score(pairs: Sequence[Pair], log_lr: Array) -> dict[str, Any]:
    """Mean regret up and down, with intervals, and the share of pairs beyond the rates tried."""
    owners = np.array([pair.old.group for pair in pairs])
    regret = np.array([pair.new.regret(lr) for pair, lr in zip(pairs, log_lr, strict=True)])
    ends = [(pair.new.log_lr[0], pair.new.log_lr[-1]) for pair in pairs]
    beyond = np.array([not low <= lr <= high for (low, high), lr in zip(ends, log_lr, strict=True)])
    upward = np.array([pair.log_kappa > 0.0 for pair in pairs])
    found: dict[str, Any] = {}
    for name, side in (("up", upward), ("down", ~upward)):
        found[name] = {
            **interval(bootstrap(regret[side], owners[side])),
            "beyond": round(float(beyond[side].mean()), 3),
        }
    return found


def by_distance(pairs: Sequence[Pair], rule: Callable[[Pair], float]) -> dict[str, Any]:
    """Regret, and the carried rate over the best one (geometric mean), by how far the batch sizes lie apart."""
    found: dict[str, Any] = {}
    for side, sign in (("up", 1.0), ("down", -1.0)):
        for low, high in pairwise(DISTANCES):
            there = [pair for pair in pairs if low * 0.99 <= math.exp(sign * pair.log_kappa) < high * 0.99]
            rates, owners = [rule(pair) for pair in there], np.array([pair.old.group for pair in there])
            regrets = np.array([pair.new.regret(lr) for pair, lr in zip(there, rates, strict=True)])
            errors = np.array([lr - pair.new.tuned for pair, lr in zip(there, rates, strict=True)])
            over = Interval(*map(math.exp, msgspec.structs.astuple(bootstrap(errors, owners))))
            found[f"{side}, {low:g} to {high:g}"] = {
                "pairs": len(there),
                "regret": interval(bootstrap(regrets, owners)),
                "carried_over_best": interval(over),
            }
    return found


def covering(pairs: Sequence[Pair], left: LeftOut) -> dict[str, Any]:
    """How often the 90 % interval of the carried rate holds the tuned one, and how wide it is (ln, either way)."""
    owners = np.array([pair.old.group for pair in pairs])
    return {
        "coverage": interval(bootstrap(left.covered.astype(np.float64), owners)),
        "half_width": round(float(left.half_widths.mean()), 4),
        "error": round(float(np.sqrt((left.errors**2).mean())), 4),
        "bends": sorted({"hinge" if math.isinf(law.bend) else f"{law.bend:g}" for law in left.laws}),
        "exponent": spread([law.exponent for law in left.laws]),
        "of_tokens": spread([law.d for law in left.laws]),
        "of_parameters": spread([law.n for law in left.laws]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"least": round(min(values), 4), "largest": round(max(values), 4)}


def interval(found: Interval) -> dict[str, float]:
    return {"mean": round(found.estimate, 6), "low": round(found.low, 6), "high": round(found.high, 6)}


def from_sweeps(
    curves: Sequence[Curve], laws: dict[str, Knee], few: int | None, spread: float | None
) -> dict[str, Any]:
    """The best rate of each batch size predicted from others of its group: all, or `few` drawn at random.

    With `spread` the law fitted without the group is a prior of the knee. The truth is the best rate as `best_rates`
    finds it; the regret is that of the predicted rate.
    """
    rng, rows = np.random.default_rng(0), []
    for curve in curves:
        sweep = sweep_of([other for other in curves if other.group == curve.group])
        found = [rate for rate in best_rates(sweep) if rate.edge is None]
        truth = next(rate.lr for rate in found if rate.batch_size == curve.batch_size)
        others = [rate.batch_size for rate in found if rate.batch_size != curve.batch_size]
        known = set(others if few is None else rng.choice(others, few, replace=False))
        runs = tuple(run for run in sweep.runs if run.batch_size in known)
        prior = Prior(laws[curve.group].batch_size, spread) if spread else None
        there = predict(fit_knee(Sweep(runs), SHAPES["adamw"], prior=prior), curve.batch_size)
        error = math.log(truth / there.estimate)
        rows.append(
            (
                there.low <= truth <= there.high,
                error,
                math.log(there.high / there.low) / 2,
                curve.regret(math.log(there.estimate)),
            )
        )
    covered, errors, widths, regrets = np.array(rows, dtype=np.float64).T
    owners = np.array([curve.group for curve in curves])
    return {
        "regret": interval(bootstrap(regrets, owners)),
        "error": round(float(np.sqrt((errors**2).mean())), 4),
        "coverage": interval(bootstrap(covered, owners)),
        "half_width": round(float(np.median(widths)), 4),
    }


def sweep_of(curves: Sequence[Curve]) -> Sweep:
    points = [(curve, x, y) for curve in curves for x, y in zip(curve.log_lr, curve.losses, strict=True)]
    return Sweep(tuple(Run(lr=math.exp(x), batch_size=curve.batch_size, loss=float(y)) for curve, x, y in points))


def sweep_errors(curves: Sequence[Curve], pairs: Sequence[Pair]) -> Array:
    """ln(tuned / carried) by the knee of the group's own sweep, the new batch size left out of it."""
    knees = {}
    for curve in curves:
        rest = [other for other in curves if other.group == curve.group and other is not curve]
        knees[curve.group, curve.batch_size] = fit_knee(sweep_of(rest), SHAPES["adamw"]).knee
    return np.array(
        [
            pair.new.tuned
            - pair.old.tuned
            - math.log(knees[pair.new.group, pair.new.batch_size].factor(pair.old.batch_size, pair.new.batch_size))
            for pair in pairs
        ]
    )


def judge(path: Path) -> dict[str, Any]:
    """Every number."""
    curves = read_curves(path)
    pairs = pairs_of(curves)
    rules = {name: score(pairs, np.array([rule(pair) for pair in pairs])) for name, rule in RULES.items()}
    left = {
        name: leave_out(curves, pairs, block, bends, size=size)
        for name, (block, size, bends) in FITTED.items()
        if len({block(curve) for curve in curves}) >= FEWEST
    }
    rules |= {name: score(pairs, found.log_lr) | covering(pairs, found) for name, found in left.items()}
    distances = np.array([pair.log_kappa for pair in pairs])
    errors = {
        "sweep": sweep_errors(curves, pairs),
        "law": left.get("fitted K(D), sizes left out", left["fitted K(D), groups left out"]).errors,
        "unknown": np.array([pair.new.tuned - power(0.5)(pair) for pair in pairs]),
    }
    doubts = {name: calibrate(error, distances)._asdict() for name, error in errors.items()}
    groups = sorted({curve.group for curve in curves})
    fitted = left["fitted K(D, N), groups left out"].laws
    laws = {
        name: law.knee(next(c for c in curves if c.group == name)) for name, law in zip(groups, fitted, strict=True)
    }
    return {
        "goals": GOALS,
        "groups": len(groups),
        "curves": len(curves),
        "pairs": {"up": int((distances > 0).sum()), "down": int((distances < 0).sum())},
        "rules": rules,
        "sqrt_by_distance": by_distance(pairs, RULES["sqrt"]),
        "law_of_all": {f"bend {bend:g}": fit_law(curves, bend, size=True).__dict__ for bend in BENDS[:-1]},
        "doubts": {name: {key: round(value, 4) for key, value in doubt.items()} for name, doubt in doubts.items()},
        "sweeps": {
            "all other batch sizes": from_sweeps(curves, laws, None, None),
            "all other batch sizes, law as prior": from_sweeps(curves, laws, None, 0.3),
            "4 others": from_sweeps(curves, laws, 4, None),
            "4 others, law as prior": from_sweeps(curves, laws, 4, 0.3),
        },
    }


def table(found: dict[str, Any]) -> str:
    lines = [f"{found['groups']} groups, {found['curves']} batch sizes, pairs {found['pairs']}", ""]
    lines.append(f"{'rule':42} {'up':24} {'down':24} {'90 % covers':12} half-width")
    for name, row in found["rules"].items():
        sides = " ".join("{mean:.4f} [{low:.4f}, {high:.4f}]".format(**row[side]) for side in ("up", "down"))
        covers = f" {row['coverage']['mean']:11.3f} {row['half_width']:11.3f}" if "coverage" in row else ""
        lines.append(f"{name:42} {sides}{covers}")
    lines.append(f"\n{'best rate of a batch size left out, from':42} {'regret':24} 90 % covers   half-width")
    for name, row in found["sweeps"].items():
        regret = "{mean:.4f} [{low:.4f}, {high:.4f}]".format(**row["regret"])
        lines.append(f"{name:42} {regret} {row['coverage']['mean']:11.3f} {row['half_width']:11.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args(arguments)
    try:
        found = judge(asked.csv)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        command = f"python benchmarks/step_law.py {asked.csv.name} --json"
        print(json.dumps({"command": command, **environment(), **found}, indent=1))
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
