"""How does the best rate of AdamW move from a batch of 1 to 4,096 where beta2 moves along? A published table, no runs.

    python benchmarks/tiny_batches.py --json > tiny_batches.json

Marek et al. (2025, arXiv 2507.07101) tuned a small language model at seven batch sizes, with the half-life of beta2
fixed in tokens and no weight decay. Their tuned rates are the centers of the grids that they then varied one number
at a time. Asked here: how far off is a rate that is carried from one of them by a rule, and one that lies on the power
of the batch size through two of them? Sizes are in sequences. The tuned rates stand a factor of 1.2 to 1.7 apart, so
nothing below that can be seen.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from itertools import combinations
from statistics import fmean
from typing import Any

from rebatch.study.environment import environment

TUNED = {1: 0.0017, 4: 0.0020, 16: 0.0020, 64: 0.0030, 256: 0.0050, 1024: 0.0050, 4096: 0.0025}
"""Learning rate by batch size, as printed there."""

EXPONENTS = {"constant": 0.0, "kappa^.25": 0.25, "sqrt": 0.5, "linear": 1.0}
# Above it the best rate falls again: no rule of thumb says so.
LARGEST = 1024
NEAR = 1.5


def from_one(exponent: float, sizes: Iterable[int]) -> dict[tuple[int, int], float]:
    """ln of the carried rate over the tuned one, for every pair (from, to)."""
    known = list(sizes)
    return {
        (old, new): math.log(TUNED[old] / TUNED[new]) + exponent * math.log(new / old)
        for old in known
        for new in known
        if old != new
    }


def from_two(sizes: Iterable[int]) -> dict[tuple[int, int, int], float]:
    """The same for the power of the batch size through two of them, at every third."""
    known, found = list(sizes), {}
    for low, high in combinations(known, 2):
        exponent = math.log(TUNED[high] / TUNED[low]) / math.log(high / low)
        for new in known:
            if new not in (low, high):
                found[low, high, new] = math.log(TUNED[low] / TUNED[new]) + exponent * math.log(new / low)
    return found


def summary(errors: Iterable[float]) -> dict[str, float]:
    """How many predictions, the share within `NEAR`, the factor of the root mean square error and of the worst."""
    values = [abs(each) for each in errors]
    return {
        "predictions": len(values),
        "near": fmean(value <= math.log(NEAR) for value in values),
        "factor": math.exp(math.sqrt(fmean(value**2 for value in values))),
        "worst": math.exp(max(values)),
    }


def measured() -> dict[str, Any]:
    """By how many of the sizes are looked at, then by rule."""
    found: dict[str, Any] = {}
    for sizes in ([size for size in TUNED if size <= LARGEST], list(TUNED)):
        rules = {name: summary(from_one(exponent, sizes).values()) for name, exponent in EXPONENTS.items()}
        between = {key: error for key, error in from_two(sizes).items() if key[0] < key[2] < key[1]}
        found[f"1 to {sizes[-1]:,}"] = {
            **rules,
            "power through two": summary(from_two(sizes).values()),
            "power through two, between them": summary(between.values()),
        }
    return found


def markdown(found: dict[str, Any]) -> str:
    """The page's table."""
    lines = [
        "| batches | rule | predictions | within 1.5 | root mean square factor | worst |",
        "|---|---|---|---|---|---|",
    ]
    for label, rules in found.items():
        for name, row in rules.items():
            numbers = f"{row['predictions']} | {row['near']:.0%} | {row['factor']:.3g} | {row['worst']:.3g}"
            lines.append(f"| {label} | {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    asked = parser.parse_args()
    found = measured()
    if asked.json:
        command = " ".join(["python", "benchmarks/tiny_batches.py", *sys.argv[1:]])
        print(json.dumps({"command": command, **environment(), "tuned": TUNED, "near": NEAR, "found": found}, indent=1))
        return
    print(markdown(found), end="")


if __name__ == "__main__":
    main()
