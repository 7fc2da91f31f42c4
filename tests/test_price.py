"""The price of the same loss against the exact quadratic model: predicted from its floor and its fewest examples."""

import math
from itertools import permutations

import pytest

from rebatch.price import examples_factor
from rebatch.quadratic import best_lr, harmonic

MODEL = harmonic()
SIZES = {0.0: (16, 64, 256, 1024, 4096, 16_384, 65_536), 0.9: (256, 1024, 4096, 16_384, 65_536)}


@pytest.mark.parametrize("momentum", SIZES)
def test_steps_to_a_loss_are_predicted_within_a_tenth(momentum: float) -> None:
    """Each batch size at its best rate, over three orders of magnitude: from the floor, and of any other size."""
    steps = {size: best_lr(MODEL, size, momentum).steps for size in SIZES[momentum]}
    floor, smallest = best_lr(MODEL, math.inf, momentum).steps, min(steps)
    critical = smallest * steps[smallest] / floor
    huge = 1e12
    from_floor = [examples_factor(huge, size, critical) * huge / size * floor / steps[size] - 1 for size in steps]
    assert max(map(abs, from_floor)) < 0.1
    pairs = []
    for old, new in permutations(steps, 2):
        exact = new * steps[new] / (old * steps[old])
        pairs.append((examples_factor(old, new, critical), exact, (new + critical) / (old + critical)))
    assert max(abs(predicted / exact - 1) for predicted, exact, _ in pairs) < 0.12
    assert max(abs(hyperbola / exact - 1) for _, exact, hyperbola in pairs) > 0.2  # what the bend is for
