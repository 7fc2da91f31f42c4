"""`late-switch`: equal examples, equal cost of both orders, and rates that follow the batch."""

from typing import Any

import pytest

from rebatch.batching import stretches
from rebatch.price import cost
from rebatch.recipe import Epochs, Recipe
from rebatch.schedule import lr_factor
from rebatch.study.studies.rebatch.late_switch import late_switch_design
from rebatch.tasks import TASKS

DIGITS = TASKS["digits/mlp"]
# arm: steps, and (batch size, rate over the tuned one) in each quarter of the examples
ARMS = {
    "small_batch": (640, [(32, 1.0), (32, 1.0), (32, 0.1), (32, 0.01)]),
    "large_batch": (40, [(512, 16.0), (512, 16.0), (512, 1.6), (512, 0.16)]),
    "large_first:0.25": (490, [(512, 16.0), (32, 1.0), (32, 0.1), (32, 0.01)]),
    "small_first:0.25": (190, [(32, 1.0), (512, 16.0), (512, 1.6), (512, 0.16)]),
    "large_first:0.5": (340, [(512, 16.0), (512, 16.0), (32, 0.1), (32, 0.01)]),
    "small_first:0.5": (340, [(32, 1.0), (32, 1.0), (512, 1.6), (512, 0.16)]),
    "large_first:0.75": (190, [(512, 16.0), (512, 16.0), (512, 1.6), (32, 0.01)]),
    "small_first:0.75": (490, [(32, 1.0), (32, 1.0), (32, 0.1), (512, 0.16)]),
}


def quarters(recipe: Recipe) -> list[tuple[int, Any]]:
    middles = (0.125, 0.375, 0.625, 0.875)
    rate = recipe.optimizer.lr / DIGITS.recipe.optimizer.lr
    return [(recipe.batch_size_at(at), pytest.approx(rate * lr_factor(recipe.schedule, at))) for at in middles]


@pytest.mark.parametrize("name", ARMS)
def test_the_arms_differ_in_batch_size_and_the_rate_that_goes_with_it(name: str) -> None:
    arms = {arm.name: arm.recipe for arm in late_switch_design(DIGITS, "cpu").arms}
    assert list(arms) == list(ARMS)
    recipe, (steps, expected) = arms[name], ARMS[name]
    assert expected == quarters(recipe)
    assert cost(recipe, DIGITS.train).steps == steps
    assert cost(recipe, DIGITS.train).examples == 20_480
    assert (recipe.ghost_batch_size, recipe.budget) == (32, Epochs(20))


def test_half_and_half_cost_the_same_in_either_order() -> None:
    arms = {arm.name: arm.recipe for arm in late_switch_design(DIGITS, "cpu").arms}
    orders = [stretches(arms[f"{first}_first:0.5"], DIGITS.train) for first in ("large", "small")]
    sizes = [sorted(each.batch_size for each in found for _ in range(each.steps)) for found in orders]
    assert sizes[0] == sizes[1]
