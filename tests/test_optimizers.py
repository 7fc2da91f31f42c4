from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rebatch import AdamW, Cosine, Epochs, MultiStep, Recipe, Sgd, build_optimizer, build_scheduler
from rebatch.recipe import Adagrad, Optimizer, RmsProp
from toy import assert_same_state, state_of, toy_model

CASES: dict[str, tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        Sgd(lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (
        Sgd(lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adamw": (
        AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    "adamw defaults": (AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)),
    "rmsprop": (
        RmsProp(lr=0.01, alpha=0.8, eps=1e-3, momentum=0.7, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.8, eps=1e-3, momentum=0.7, weight_decay=0.1),
    ),
    "rmsprop defaults": (RmsProp(lr=0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "adagrad": (
        Adagrad(lr=0.1, eps=1e-3, weight_decay=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-3, weight_decay=0.1),
    ),
    "adagrad defaults": (Adagrad(lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
}


def few_steps(model: nn.Module, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> dict[str, torch.Tensor]:
    inputs = torch.linspace(-1, 1, 55, dtype=torch.float64).reshape(11, 5)
    for _ in range(5):
        optimizer.zero_grad()
        loss: torch.Tensor = scale * model(inputs).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return state_of(model)


@pytest.mark.parametrize("case", CASES)
def test_a_recipe_builds_the_optimizer_that_one_would_write_by_hand(case: str) -> None:
    recipe_part, by_hand = CASES[case]
    recipe = Recipe(batch_size=16, optimizer=recipe_part, budget=Epochs(1))
    ours, theirs = toy_model(norm=False), toy_model(norm=False)
    found = few_steps(ours, build_optimizer(recipe, ours))
    assert_same_state(found, few_steps(theirs, by_hand(theirs.parameters())), rtol=1e-12)


@pytest.mark.parametrize("make", [RmsProp, Adagrad])
def test_a_summed_gradient_is_the_mean_one_with_eps_and_decay_divided(make: type[RmsProp] | type[Adagrad]) -> None:
    # What a transfer answers to a summed loss.
    found = []
    for size in (1, 7):
        model = toy_model(norm=False)
        numbers = make(lr=0.01, eps=0.3 / size, weight_decay=0.2 / size)
        optimizer = build_optimizer(Recipe(batch_size=7, optimizer=numbers, budget=Epochs(1)), model)
        found.append(few_steps(model, optimizer, scale=7 / size))
    assert_same_state(found[0], found[1], rtol=1e-10)


def test_frozen_parameters_are_left_out_and_all_others_decay_together() -> None:
    model = toy_model()
    next(model.parameters()).requires_grad_(False)
    optimizer = build_optimizer(Recipe(batch_size=1, optimizer=Sgd(lr=0.1), budget=Epochs(1)), model)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters())) - 1


def arithmetic(case: str, weight: float, gradients: list[float]) -> float:
    """One weight, moved as the papers say, without torch."""
    squares = velocity = 0.0
    for given in gradients:
        gradient = given + 0.1 * weight
        squares = 0.8 * squares + 0.2 * gradient**2 if case == "rmsprop" else squares + gradient**2
        velocity = (0.7 * velocity if case == "rmsprop" else 0.0) + gradient / (squares**0.5 + 1e-3)
        weight -= (0.01 if case == "rmsprop" else 0.1) * velocity
    return weight


@pytest.mark.parametrize("case", ["rmsprop", "adagrad"])
def test_adaptive_optimizers_do_what_their_papers_say(case: str) -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.5)
    optimizer = build_optimizer(Recipe(batch_size=2, optimizer=CASES[case][0], budget=Epochs(1)), model)
    for gradient in (0.3, -2.0, 0.07, 5.0):
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
    assert model.weight.item() == pytest.approx(arithmetic(case, 0.5, [0.3, -2.0, 0.07, 5.0]), rel=1e-12)


@pytest.mark.parametrize("schedule", [MultiStep(milestones=(0.5,), factor=0.1), Cosine(warmup=0.25)])
def test_the_scheduler_gives_step_i_the_rate_at_i_over_t_and_stays_at_the_end(schedule: MultiStep | Cosine) -> None:
    from rebatch.schedule import lr_factor

    recipe = Recipe(batch_size=5, optimizer=Sgd(lr=0.2), schedule=schedule, budget=Epochs(4))
    optimizer = build_optimizer(recipe, toy_model())
    scheduler = build_scheduler(recipe, optimizer, examples=10)  # 8 steps
    for step in range(12):
        expected = 0.2 * lr_factor(schedule, min(step / 8, 1.0))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        optimizer.step()
        scheduler.step()
