"""Which rule carries a tuned learning rate best to another batch size? Every rule's regret over finished sweeps.

    rebatch study run rate-sweep --task digits/mlp-plain --scale cpu --store sweeps
    python benchmarks/rate_rules.py sweeps [MORE ...] --json > rate_rules.json

Reads the stores of the study `rate-sweep`, trains nothing. A group is a task with an optimizer. The rate tuned at one
batch size of it, by mean validation loss over the seeds, is carried by each rule to every other (see
`rebatch.study.carried_rates`). Two numbers count: the share of pairs within a factor 1.5 of the best rate there, and
the regret in validation loss, in nats and over the lowest loss. Groups weigh alike. Intervals are 95 %, of a bootstrap
over groups and, inside them, over seeds; few groups make wide ones, and too narrow ones still. Seeds that lack a
run do not count.
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.recipe import Recipe
from rebatch.study.carried_rates import CARRIED, LATE, NEAR, SIMPLE, TENTHS, Landing, Trial, curves, landings
from rebatch.study.environment import environment
from rebatch.study.plan import Plan
from rebatch.study.store import Store
from rebatch.study.studies.rebatch.rate_sweep import OPTIMIZERS, Point, trial_of
from rebatch.tasks import find_task

Array = NDArray[np.float64]

DRAWS = 4_000
# Sets of seeds drawn for each group: every one is tuned and carried anew.
RESAMPLED = 200

# Which numbers a rule has in a group.
MEASURES: dict[str, Callable[[Sequence[Landing]], float]] = {
    "near": lambda found: _mean([landing.near for landing in found]),
    "regret": lambda found: _mean([landing.regret for landing in found]),
    "relative": lambda found: _mean([landing.relative for landing in found]),
    "regret_up": lambda found: _mean([landing.regret for landing in found if landing.new > landing.old]),
    "regret_down": lambda found: _mean([landing.regret for landing in found if landing.new < landing.old]),
    "beyond": lambda found: _mean([landing.beyond for landing in found]),
}
# What these save beside the simple rules is told.
SAVERS = ("default", "sweep")
# The rules that read the noise scale, and are not given the sweep.
NOISY = ("gain", "default")
# From which part of the run the noise scale is taken, in tenths; the first is what the table stands on.
WINDOWS = {
    "second half": LATE,
    "whole run": range(TENTHS),
    "first half": range(TENTHS // 2),
    "last tenth": range(TENTHS - 1, TENTHS),
}
# Looked at after the first results: which losses, over the lowest, are read for the best rate.
HIGHEST = {"all": float("inf"), "4 x the lowest": 4.0, "2 x the lowest": 2.0}


@dataclass(frozen=True)
class Group:
    """The sweep of one optimizer on one task, by seed."""

    task: str
    optimizer: str
    recipe: Recipe
    examples: int
    by_seed: dict[int, list[Trial]]

    @property
    def name(self) -> str:
        return f"{self.task}, {self.optimizer}"

    def trials(self, seeds: Sequence[int]) -> list[Trial]:
        return [trial for seed in seeds for trial in self.by_seed[seed]]


def read_groups(stores: Sequence[Path]) -> list[Group]:
    """Every task and optimizer of the stores with a seed whose runs are all there."""
    plans = [(plan, Store(root)) for root in stores for plan in Store(root).plans() if plan.study == "rate-sweep"]
    groups = [_group(plan, store, optimizer) for plan, store in plans for optimizer in OPTIMIZERS]
    whole = [group for group in groups if group.by_seed]
    if not whole:
        raise RequestError(f"{', '.join(map(str, stores))}: no seed of rate-sweep has all its runs; finish the study")
    return whole


def _group(plan: Plan, store: Store, optimizer: str) -> Group:
    arms = [arm for arm in plan.design.arms if Point.of(arm.name).optimizer == optimizer]
    chance_loss = float(np.log(find_task(plan.task).classes))
    by_seed: dict[int, list[Trial]] = {}
    for arm in arms:
        for seed, result in store.results(plan, arm.name).items():
            known = {name: value for name, value in result.metrics.items() if value is not None}
            trial = trial_of(arm.name, known, diverged=result.status == "diverged", chance_loss=chance_loss)
            by_seed.setdefault(seed, []).append(trial)
    whole = {seed: trials for seed, trials in sorted(by_seed.items()) if len(trials) == len(arms)}
    return Group(plan.task, optimizer, arms[0].recipe, plan.examples_of(arms[0]), whole)


def score(group: Group, seeds: Sequence[int], tenths: Sequence[int] = LATE, highest: float = float("inf")) -> Array:
    """Every measure of every rule, and its regret over that of each of `SAVERS`; nan where a rule reaches no pair.

    Shape (rules, measures + savers). Regrets are compared within the group: not every rule reaches all groups.
    """
    found = landings(group.trials(seeds), group.recipe, group.examples, tenths, highest=highest)
    by_rule = [[landing for landing in found if landing.rule == rule] for rule in CARRIED]
    table = np.array([[measure(each) for measure in MEASURES.values()] for each in by_rule])
    regrets, names = table[:, list(MEASURES).index("regret")], list(CARRIED)
    saved = [regrets - regrets[names.index(saver)] for saver in SAVERS]
    return np.column_stack([table, *saved])


def resampled(group: Group, rng: np.random.Generator) -> Array:
    """`score` of sets of seeds drawn with replacement, (sets, rules, measures)."""
    seeds = list(group.by_seed)
    return np.array([score(group, list(rng.choice(seeds, len(seeds)))) for _ in range(RESAMPLED)])


def bootstrap(drawn: Sequence[Array], rng: np.random.Generator) -> Array:
    """Means over groups drawn with replacement, each with one of its sets of seeds, (draws, rules, measures)."""
    groups = rng.integers(len(drawn), size=(DRAWS, len(drawn)))
    sets = rng.integers(RESAMPLED, size=groups.shape)
    table = np.stack(drawn)
    return np.asarray(np.nanmean(table[groups, sets], axis=1))


def judge(stores: Sequence[Path]) -> dict[str, Any]:
    """Every number."""
    groups, rng = read_groups(stores), np.random.default_rng(0)
    points = np.stack([score(group, list(group.by_seed)) for group in groups])
    drawn = [resampled(group, rng) for group in groups]
    alone = {group.name: _with_intervals(point, sets) for group, point, sets in zip(groups, points, drawn, strict=True)}
    by_optimizer = {}
    for optimizer in OPTIMIZERS:
        own = [place for place, group in enumerate(groups) if group.optimizer == optimizer]
        if own:
            draws = bootstrap([drawn[place] for place in own], rng)
            by_optimizer[optimizer] = _with_intervals(np.nanmean(points[own], axis=0), draws)
    return {
        "near_factor": NEAR,
        "groups": [_about(group) for group in groups],
        "all": _with_intervals(np.nanmean(points, axis=0), bootstrap(drawn, rng)),
        "by_optimizer": by_optimizer,
        "by_group": alone,
        "covered": {group.name: _coverage(group) for group in groups},
        "noise_scale_from": {
            name: {group.name: _short(score(group, list(group.by_seed), list(window)), NOISY) for group in groups}
            for name, window in WINDOWS.items()
        },
        "best_rate_read_from_losses_up_to": {
            name: {group.name: _short(score(group, list(group.by_seed), LATE, times)) for group in groups}
            for name, times in HIGHEST.items()
        },
        "one_seed_beside_the_others": {group.name: _agreement(group) for group in groups},
    }


def _about(group: Group) -> dict[str, Any]:
    found = curves(group.trials(list(group.by_seed)))
    sizes = {
        size: {
            "best_lr": _rounded(curve.best.lr),
            "log_error": _rounded(curve.best.log_error),
            "lowest_loss": _rounded(float(curve.losses.min())),
            "noise_scale": _rounded(curve.noise_scale),
        }
        for size, curve in found.items()
    }
    tried = sorted({trial.batch_size for trial in group.trials(list(group.by_seed))})
    return {
        "task": group.task,
        "optimizer": group.optimizer,
        "seeds": list(group.by_seed),
        "best_at_an_end": [size for size in tried if size not in found],
        "batch_sizes": sizes,
    }


def _with_intervals(point: Array, draws: Array) -> dict[str, Any]:
    """Of every rule its measures with intervals, and what the default and a sweep save beside the simple ones."""
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    rules = {
        rule: {
            name: _interval(Interval(*(float(each[row, column]) for each in (point, low, high))))
            for column, name in enumerate(MEASURES)
        }
        for row, rule in enumerate(CARRIED)
    }
    return {
        "rules": rules,
        **{f"saved_by_{saver}": _saved(point, draws, saver) for saver in SAVERS},
    }


def _saved(point: Array, draws: Array, rule: str) -> dict[str, Any]:
    """How much lower the regret of `rule` is than that of each simple one, in the groups that both reach."""
    names, column = list(CARRIED), len(MEASURES) + SAVERS.index(rule)
    found = {}
    for simple in SIMPLE:
        row = names.index(simple)
        low, high = np.nanpercentile(draws[:, row, column], [2.5, 97.5])
        found[simple] = _interval(Interval(float(point[row, column]), float(low), float(high)))
    return found


def _short(table: Array, rules: Sequence[str] = tuple(CARRIED)) -> dict[str, dict[str, float | None]]:
    """Share near the best and regret of each rule."""
    names, measures = list(CARRIED), list(MEASURES)
    return {
        rule: {name: _rounded(float(table[names.index(rule), measures.index(name)])) for name in ("near", "regret")}
        for rule in rules
    }


def _agreement(group: Group) -> float | None:
    """How often a seed's own best rate lies within a factor `NEAR` of that of all other seeds: the measure's floor."""
    near = []
    for seed in group.by_seed if len(group.by_seed) > 1 else ():
        own, others = (
            curves(group.by_seed[seed]),
            curves(group.trials([each for each in group.by_seed if each != seed])),
        )
        near += [
            abs(math.log(own[size].best.lr / others[size].best.lr)) <= math.log(NEAR)
            for size in own.keys() & others.keys()
        ]
    return _rounded(_mean(near))


def _coverage(group: Group) -> dict[str, Any]:
    """How many of the pairs have their best rate within the 90 % bounds that `rebatch transfer` gives."""
    found = landings(group.trials(list(group.by_seed)), group.recipe, group.examples)
    counts = {}
    for rule in CARRIED:
        known = [landing.covered for landing in found if landing.rule == rule and landing.covered is not None]
        if known:
            counts[rule] = {"pairs": len(known), "covered": sum(known)}
    return counts


def _interval(found: Interval) -> dict[str, float | None]:
    return {"mean": _rounded(found.estimate), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(value: float) -> float | None:
    """Four digits; JSON has no nan."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def markdown(found: dict[str, Any]) -> str:
    """The table of `docs/choosing-a-rule.md`: all groups, then each."""
    lines = [
        f"| rule | within {found['near_factor']:g} | regret, nats | over the lowest loss | up | down |",
        "|---|---|---|---|---|---|",
    ]
    whole = {"all": found["all"]} if len(found["by_group"]) > 1 else {}
    for name, each in {**whole, **found["by_group"]}.items():
        lines.append(f"| **{name}** | | | | | |")
        lines += [_row(rule, row) for rule, row in each["rules"].items() if row["near"]["mean"] is not None]
    return "\n".join(lines) + "\n"


def _row(rule: str, row: dict[str, Any]) -> str:
    near, regret = row["near"], row["regret"]
    cells = [
        f"{near['mean']:.0%} [{near['low']:.0%}, {near['high']:.0%}]",
        f"{regret['mean']:.3f} [{regret['low']:.3f}, {regret['high']:.3f}]",
        f"{row['relative']['mean']:.0%}",
        *(f"{row[side]['mean']:.3f}" for side in ("regret_up", "regret_down")),
    ]
    return f"| {rule} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(empty slice|All-NaN)")  # a rule that reaches no pair
            found = judge(asked.stores)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        command = f"python benchmarks/rate_rules.py {' '.join(store.name for store in asked.stores)} --json"
        print(json.dumps({"command": command, **environment(), **found}, indent=1))
    else:
        print(markdown(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
