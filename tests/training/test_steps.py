"""What a recipe does between the gradient and the update: clipping in some steps, weight decay until some step."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from rebatch import Recipe, Sgd
from rebatch.errors import RequestError
from rebatch.schedule import Constant
from toy import RECIPE, assert_same_state, state_of, toy_model
from training.runs import by_hand, run, stopped_and_resumed

PLAIN = RECIPE.replace(ghost_batch_size=None, schedule=Constant(), max_grad_norm=None)
LIMIT = 0.6  # some gradients of these runs are larger and some smaller


def norm_of(gradients: list[Tensor]) -> float:
    return math.sqrt(sum(x * x for gradient in gradients for x in gradient.flatten().tolist()))


@pytest.mark.parametrize("mode", ["clip", "normalize"])
@pytest.mark.parametrize("steps", [None, 1, 4, 100])
def test_clipping_equals_the_hand_written_one(mode: Any, steps: int | None) -> None:
    recipe = PLAIN.replace(max_grad_norm=LIMIT, clip_steps=steps, clip_mode=mode)
    kinds = set()

    def scale(step: int, gradients: list[Tensor]) -> None:
        norm = norm_of(gradients)
        kinds.add(norm > LIMIT)
        if (steps is None or step < steps) and (mode == "normalize" or norm > LIMIT):
            for gradient in gradients:
                gradient.mul_(LIMIT / (norm + 1e-6))  # as torch guards against 0

    model = toy_model()
    by_hand(recipe, model, change=scale)
    _, weights = run(recipe)
    assert_same_state(weights, state_of(model), rtol=1e-10)
    assert kinds == {True, False}


def test_a_gradient_of_zero_stays_zero_when_it_is_normalized() -> None:
    recipe = PLAIN.replace(max_grad_norm=LIMIT, clip_mode="normalize")
    _, weights = run(recipe.replace(optimizer=Sgd(lr=0.1)), loss=lambda outputs, targets: 0 * outputs.sum())
    for name, weight in toy_model().named_parameters():
        assert torch.equal(weights[name], weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_steps": 3}, "clip_steps must be left out where max_grad_norm is, got 3"),
        ({"clip_mode": "normalize"}, "clip_mode must be left out where max_grad_norm is, got 'normalize'"),
        ({"max_grad_norm": 1.0, "clip_steps": 0}, "clip_steps must be at least 1, got 0"),
    ],
)
def test_settings_of_a_clipping_that_is_not_there_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        PLAIN.replace(**change)
    assert str(caught.value) == message


def decaying_until(until: float) -> Recipe:
    optimizer = msgspec.structs.replace(PLAIN.optimizer, weight_decay=0.3, weight_decay_until=until)
    return PLAIN.replace(optimizer=optimizer)


@pytest.mark.parametrize(("until", "steps"), [(1.0, 9), (5 / 9, 5), (0.5, 5), (0.01, 1)])
def test_weight_decay_ends_where_the_recipe_says(until: float, steps: int) -> None:
    recipe = decaying_until(until)

    def decay(step: int, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        optimizer.param_groups[0]["weight_decay"] = 0.3 if step < steps else 0.0
        return optimizer

    model = toy_model()
    by_hand(recipe, model, start=decay)
    _, weights = run(recipe)
    assert_same_state(weights, state_of(model))


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_whose_clipping_and_decay_end_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    recipe = decaying_until(5 / 9).replace(max_grad_norm=LIMIT, clip_steps=4, clip_mode="normalize")
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)
