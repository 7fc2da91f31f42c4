"""The state of an optimizer at another batch size: that of a run which had this batch size all along."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from rebatch import AdamW, Epochs, Recipe, Sgd, apply_recipe, build_optimizer, carry_over
from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.recipe import Adagrad, Lamb, Lars, Lion, Muon, Optimizer, RmsProp
from rebatch.rules.move import Facts
from rebatch.rules.state import carried, same_correction
from toy import toy_model

OLD, NEW = 3, 15
KAPPA = NEW / OLD
# Every coordinate's gradient has mean G and, per example, standard deviation SPREAD: a noise scale of 4 examples.
G, SPREAD, COORDINATES = 0.7, 1.4, 4000
NOISE = Facts(noise_scale=(SPREAD / G) ** 2)
TINY = 1e-12  # a rate that leaves the weights where they are

# Optimizer before, what changes, steps before the switch: enough for a stationary state where it has one.
CASES: dict[str, tuple[Optimizer, dict[str, Any], int]] = {
    "momentum": (Sgd(lr=TINY, momentum=0.9), {"lr": 3 * TINY}, 200),
    "another momentum": (Sgd(lr=TINY, momentum=0.9), {"momentum": 0.5}, 500),
    "page": (Sgd(lr=TINY, momentum=0.9, lr_in_buffer=True), {"lr": 3 * TINY}, 500),
    "adamw": (AdamW(lr=TINY, betas=(0.9, 0.99)), {"lr": 2 * TINY, "betas": (0.9, 0.99**KAPPA)}, 1000),
    "adamw, early": (AdamW(lr=TINY, betas=(0.9, 0.99)), {"betas": (0.9, 0.99**KAPPA)}, 10),
    "adamw, both betas": (AdamW(lr=TINY, betas=(0.9, 0.99)), {"betas": (0.5, 0.95)}, 1000),
    "rmsprop": (RmsProp(lr=TINY, alpha=0.999, momentum=0.5), {"alpha": 0.999**KAPPA}, 5000),
    "rmsprop, another momentum": (
        RmsProp(lr=TINY, alpha=0.999, momentum=0.5),
        {"alpha": 0.999**KAPPA, "momentum": 0.2},
        5000,
    ),
    "adagrad": (Adagrad(lr=TINY), {}, 1000),
}
REDUCTIONS = ("mean", "sum")


def recipes(case: str, reduction: Any = "mean") -> tuple[Recipe, Recipe]:
    numbers, changes, _ = CASES[case]
    before = Recipe(batch_size=OLD, optimizer=numbers, budget=Epochs(1), loss_reduction=reduction)
    return before, before.replace(batch_size=NEW, optimizer=replace(numbers, **changes))


def run(recipe: Recipe, steps: int, seed: int) -> torch.optim.Optimizer:
    """An optimizer after `steps` steps of noisy gradients."""
    weights = torch.nn.Parameter(torch.zeros(COORDINATES))
    model = torch.nn.Module()
    model.weights = weights
    optimizer, draws = build_optimizer(recipe, model), torch.Generator().manual_seed(seed)
    scale = recipe.batch_size if recipe.loss_reduction == "sum" else 1
    for _ in range(steps):
        noise = torch.randn(COORDINATES, generator=draws) * (SPREAD / math.sqrt(recipe.batch_size))
        weights.grad = scale * (G + noise)
        optimizer.step()
    return optimizer


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Of an optimizer with one weight tensor, but for the counters that only count."""
    (state,) = optimizer.state.values()
    counts = "exp_avg" in state
    return {name: value.detach().clone() for name, value in state.items() if name != "step" or counts}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.double().mean().item(), values.double().std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_carried_state_is_that_of_a_run_that_had_the_batch_size_all_along(case: str, reduction: str) -> None:
    before, after = recipes(case, reduction)
    steps = CASES[case][2]
    optimizer = run(before, steps, seed=1)
    carry_over(optimizer, before, after, facts=NOISE)
    count = round(state_of(optimizer)["step"].item()) if "adamw" in case else round(steps / KAPPA)
    twin = state_of(run(after, count, seed=2))
    for name, found in state_of(optimizer).items():
        if name == "step":
            assert found.item() == pytest.approx(count, rel=1e-3)  # whole steps for the twin
            continue
        (ours, error), (theirs, other) = mean_and_error(found), mean_and_error(twin[name])
        assert abs(ours - theirs) < 4 * math.hypot(error, other), name


@pytest.mark.parametrize("case", CASES)
def test_without_noise_to_speak_of_squares_stay_and_without_a_noise_scale_they_fall_by_kappa(case: str) -> None:
    before, after = recipes(case)
    still, dominated = (carried(before, after, facts=facts) for facts in (Facts(noise_scale=1e-9), None))
    fewer = KAPPA if case == "adagrad" else 1.0
    if not isinstance(before.optimizer, Sgd):
        assert still.square == pytest.approx(1 / fewer, rel=1e-9)
        assert dominated.square == pytest.approx(1 / (fewer * KAPPA), rel=1e-12)
        assert "noise dominates" in dominated.why
    endless = Facts(noise_scale=Interval(math.inf, 7.0, math.inf))
    assert carried(before, after, facts=endless).square == dominated.square


def test_a_batch_of_all_examples_has_no_noise() -> None:
    before, after = recipes("adamw")
    found = carried(before, after, facts=NOISE, examples=NEW).square
    assert 1 / found == pytest.approx(1 + 4 * (1 / OLD - 1 / NEW), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_same_batch_size_changes_no_bit_of_the_state(case: str) -> None:
    before, _ = recipes(case)
    optimizer = run(before, 13, seed=3)
    kept = deepcopy(optimizer.state_dict())
    for facts in (None, NOISE):
        carry_over(optimizer, before, before, facts=facts)
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(kept["state"][0][name])), name


@pytest.mark.parametrize("facts", [None, NOISE], ids=["unknown", "known"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_there_and_back_restores_the_state(case: str, reduction: str, facts: Facts | None) -> None:
    before, after = recipes(case, reduction)
    optimizer = run(before, 13, seed=4)
    kept = state_of(optimizer)
    carry_over(optimizer, before, after, facts=facts)
    carry_over(optimizer, after, before, facts=facts)
    for name, value in state_of(optimizer).items():
        torch.testing.assert_close(value, kept[name], rtol=1e-5, atol=0.0)  # float32, twice


@pytest.mark.parametrize("steps", [1, 4, 300])
@pytest.mark.parametrize("betas", [(0.9, 0.99**KAPPA), (0.5, 0.95), (0.9, 0.99), (0.0, 0.5), (0.9, 0.0)])
def test_a_gradient_without_noise_moves_the_weights_by_the_new_rate_in_every_step(
    steps: int, betas: tuple[float, float]
) -> None:
    # The bias corrections are right at the switch and in all steps after it, or the ratio of the moments is not 1.
    before = Recipe(batch_size=OLD, optimizer=AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.0), budget=Epochs(1))
    after = before.replace(batch_size=NEW, optimizer=AdamW(lr=0.3, betas=betas, weight_decay=0.0))
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimizer = build_optimizer(before, model)
    for step in range(steps + 20):
        if step == steps:
            carry_over(optimizer, before, after, facts=Facts(noise_scale=1e-12))
            apply_recipe(after, optimizer)
        start = model.weight.item()
        model.weight.grad = torch.full((1, 1), G, dtype=torch.float64)
        optimizer.step()
        rate = 0.1 if step < steps else 0.3
        assert start - model.weight.item() == pytest.approx(rate, rel=1e-5)  # torch counts in float32


def test_moments_weigh_old_gradients_as_they_did() -> None:
    """A slow twin: every gradient with its weight, both moments divided by the sum of their weights."""
    before, after = recipes("adamw")
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimizer = build_optimizer(before.with_lr(0.1), model)
    gradients = [0.3, -2.0, 0.07, 5.0, 1.0, -0.2, 0.6]
    first: list[float] = []
    second: list[float] = []
    for step, gradient in enumerate(gradients):
        if step == 4:
            carry_over(optimizer, before, after)
            apply_recipe(after.with_lr(0.1), optimizer)
            first = [weight * (1 - 0.9 ** (4 / KAPPA)) / (1 - 0.9**4) for weight in first]
        beta = 0.99 if step < 4 else 0.99**KAPPA
        first = [0.9 * weight for weight in first] + [0.1]
        second = [beta * weight for weight in second] + [1 - beta]
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        start = model.weight.item()
        optimizer.step()
        squares = [g * g / (KAPPA if when < 4 and step >= 4 else 1) for when, g in enumerate(gradients)]
        mean = sum(w * g for w, g in zip(first, gradients, strict=False)) / sum(first)
        square = sum(w * s for w, s in zip(second, squares, strict=False)) / sum(second)
        expected = start * (1 - 0.1 * 0.01) - 0.1 * mean / (math.sqrt(square) + 1e-8)
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)  # torch counts in float32


def test_the_count_of_an_average_keeps_its_weight() -> None:
    for steps, decay, new in [(7, 0.9, 0.9**5), (100, 0.999, 0.95), (3, 0.5, 0.99)]:
        assert new ** same_correction(steps, decay, new) == pytest.approx(decay**steps, rel=1e-12)


def test_an_optimizer_without_a_state_has_nothing_to_carry() -> None:
    before, after = recipes("adamw")
    optimizer = build_optimizer(before, toy_model())
    carry_over(optimizer, before, after)
    assert not optimizer.state


def test_a_first_step_that_was_skipped_leaves_nothing_to_carry() -> None:
    before, after = recipes("adamw")
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    vars(optimizer)["found_inf"] = torch.tensor(1.0)  # so GradScaler tells it of a gradient that is not finite
    weight.grad = torch.ones(3)
    optimizer.step()
    carry_over(optimizer, before, after)
    assert all(not value.any() for value in optimizer.state[weight].values())
    counted = carried(before, after).counted(0.0)
    assert (counted.step, counted.mean, counted.square) == (0.0, 1.0, 1.0)


def test_what_nobody_knows_how_to_carry_is_refused_and_left_alone() -> None:
    before, after = recipes("adamw")
    optimizer = run(before, 3, seed=5)
    (state,) = optimizer.state.values()
    kept = state_of(optimizer)
    with pytest.raises(RequestError, match="the optimizer is AdamW; read its own recipe"):
        carry_over(optimizer, *recipes("momentum"))
    for other in ("momentum", "page"):
        with pytest.raises(RequestError, match=r"of optimizer '\w+.*' cannot go on as one of 'adamw'"):
            carry_over(optimizer, recipes(other)[0], after)
    with pytest.raises(RequestError, match="'sgd' cannot go on as one of 'sgd, lr_in_buffer'"):
        carried(recipes("momentum")[0], recipes("page")[1])
    state["shadow"] = torch.zeros(3)
    with pytest.raises(RequestError, match="how to carry 'shadow' over"):
        carry_over(optimizer, before, after)
    for name, value in kept.items():
        assert torch.equal(state[name], value)


# Optimizers that treat matrices and vectors apart, on layers of both kinds; a vector of weights is as long as it was.
LAYERED: dict[str, tuple[Optimizer, dict[str, Any], int]] = {
    "lion": (Lion(lr=TINY, betas=(0.9, 0.99)), {"betas": (0.9, 0.99**KAPPA)}, 300),
    "lion, early": (Lion(lr=TINY, betas=(0.9, 0.99)), {"betas": (0.9, 0.99**KAPPA)}, 20),
    "lamb": (Lamb(lr=TINY, betas=(0.9, 0.99)), {"betas": (0.9, 0.99**KAPPA)}, 1000),
    "lars": (Lars(lr=TINY, momentum=0.9), {"lr": 2 * TINY}, 200),
    "lars, another momentum": (Lars(lr=TINY, momentum=0.9), {"momentum": 0.5}, 200),
    "muon": (Muon(lr=TINY, momentum=0.9, betas=(0.9, 0.99)), {"betas": (0.9, 0.99**KAPPA)}, 1000),
    "muon, another momentum": (
        Muon(lr=TINY, momentum=0.9, betas=(0.9, 0.99)),
        {"momentum": 0.5, "betas": (0.9, 0.99**KAPPA)},
        1000,
    ),
}


def layered_recipes(case: str, reduction: Any) -> tuple[Recipe, Recipe]:
    numbers, changes, _ = LAYERED[case]
    before = Recipe(batch_size=OLD, optimizer=numbers, budget=Epochs(1), loss_reduction=reduction)
    return before, before.replace(batch_size=NEW, optimizer=replace(numbers, **changes))


def run_layers(recipe: Recipe, steps: int, seed: int) -> torch.optim.Optimizer:
    """After `steps` steps of noisy gradients of a matrix between layers, a vector, and a matrix for the outputs."""
    model = torch.nn.ParameterList([torch.ones(50, 80), torch.ones(COORDINATES), torch.ones(80, 50)])
    optimizer, draws = build_optimizer(recipe, model), torch.Generator().manual_seed(seed)
    scale = recipe.batch_size if recipe.loss_reduction == "sum" else 1
    for _ in range(steps):
        for weights in model:
            noise = torch.randn(weights.shape, generator=draws) * (SPREAD / math.sqrt(recipe.batch_size))
            weights.grad = scale * (G + noise)
        optimizer.step()
    return optimizer


def layers(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Every weight's averages and buffers, in order."""
    kept = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
    states = [optimizer.state[weight] for group in optimizer.param_groups for weight in group["params"]]
    return [{name: state[name].detach().clone() for name in kept if name in state} for state in states]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", LAYERED)
def test_layer_by_layer_too_a_carried_state_is_that_of_a_run_that_had_the_batch_size(case: str, reduction: str) -> None:
    before, after = layered_recipes(case, reduction)
    steps = LAYERED[case][2]
    optimizer = run_layers(before, steps, seed=1)
    carry_over(optimizer, before, after, facts=NOISE)
    twin = run_layers(after, round(steps / KAPPA), seed=2)
    compared = 0
    for found, expected in zip(layers(optimizer), layers(twin), strict=True):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"step"}:
            (ours, error), (theirs, other) = (
                mean_and_error(found[name].flatten()),
                mean_and_error(expected[name].flatten()),
            )
            assert abs(ours - theirs) < 4 * math.hypot(error, other), name
            compared += 1
    assert compared >= 3


def test_of_lion_the_noise_too_is_that_of_the_new_batch_size() -> None:
    before, after = layered_recipes("lion", "mean")
    optimizer, twin = run_layers(before, 600, seed=1), run_layers(after, 120, seed=2)
    carry_over(optimizer, before, after)
    for found, expected in zip(layers(optimizer), layers(twin), strict=True):
        ratio = (found["exp_avg"].std() / expected["exp_avg"].std()).item()
        assert abs(ratio - 1) < 4 / math.sqrt(COORDINATES) + 0.02  # beta2 / (1 + beta2) differ by so much


@pytest.mark.parametrize("facts", [None, NOISE], ids=["unknown", "known"])
@pytest.mark.parametrize("case", LAYERED)
def test_there_and_back_and_nowhere_restore_it_layer_by_layer(case: str, facts: Facts | None) -> None:
    before, after = layered_recipes(case, "mean")
    optimizer = run_layers(before, 13, seed=4)
    kept = layers(optimizer)
    carry_over(optimizer, before, before, facts=facts)
    for now, then in zip(layers(optimizer), kept, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)
    carry_over(optimizer, before, after, facts=facts)
    carry_over(optimizer, after, before, facts=facts)
    for now, then in zip(layers(optimizer), kept, strict=True):
        for name in then:
            torch.testing.assert_close(now[name], then[name], rtol=1e-5, atol=0.0)


def test_a_state_is_of_its_own_optimizer_alone() -> None:
    lion, lamb = layered_recipes("lion", "mean")[0], layered_recipes("lamb", "mean")[0]
    optimizer = run_layers(lion, 2, seed=0)
    with pytest.raises(RequestError, match="'lion' cannot go on as one of 'lamb'"):
        carry_over(optimizer, lion, lamb)
    with pytest.raises(RequestError, match=r"optimizer\.type is 'lamb', and the optimizer is Lion"):
        carry_over(optimizer, lamb, lamb)
