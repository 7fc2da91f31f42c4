import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rebatch import AdamW, Cosine, Epochs, MultiStep, Recipe, Sgd, build_optimizer, build_scheduler
from rebatch.errors import RequestError
from rebatch.models.transformer import Transformer
from rebatch.optimizers import MuonAdamW, parameter_groups, set_lr
from rebatch.recipe import Adagrad, Lamb, Lars, Lion, Muon, Optimizer, RmsProp
from rebatch.reduction import with_gradient_times
from toy import assert_same_state, state_of, toy_model, toy_sequences, toy_transformer

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


def lion(weight: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """Chen et al. (2023), Algorithm 2, in place; lr .01, betas .8 and .95, decay .1."""
    average = torch.zeros_like(weight)
    for gradient in gradients:
        weight = weight - 0.01 * ((0.8 * average + 0.2 * gradient).sign() + 0.1 * weight)
        average = 0.95 * average + 0.05 * gradient
    return weight


def lars(weight: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """You et al. (2017): lr .1, momentum .9, decay .2, trust .05; vectors as by SGD without decay."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        if weight.dim() > 1:
            trust = 0.05 * weight.norm() / (gradient.norm() + 0.2 * weight.norm())
            gradient = trust * (gradient + 0.2 * weight)
        buffer = 0.9 * buffer + gradient
        weight = weight - 0.1 * buffer
    return weight


def lamb(weight: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """You et al. (2019) with decoupled decay and no bias correction: lr .01, betas .8 and .95, eps 1e-3, decay .1."""
    average, squares = torch.zeros_like(weight), torch.zeros_like(weight)
    for gradient in gradients:
        weight = weight * (1 - 0.01 * 0.1)
        average, squares = 0.8 * average + 0.2 * gradient, 0.95 * squares + 0.05 * gradient**2
        update = average / (squares.sqrt() + 1e-3)
        trust = weight.norm() / (update.norm() + 1e-3) if weight.norm() > 0 else 1.0
        weight = weight - 0.01 * trust * update
    return weight


TWINS: dict[str, tuple[Optimizer, Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor]]] = {
    "lion": (Lion(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1), lion),
    "lars": (Lars(lr=0.1, momentum=0.9, weight_decay=0.2, trust_coefficient=0.05), lars),
    "lamb": (Lamb(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1), lamb),
}


@pytest.mark.parametrize("case", TWINS)
def test_optimizers_of_the_package_do_what_their_papers_say(case: str) -> None:
    pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers` is not installed")
    numbers, twin = TWINS[case]
    model = nn.Linear(3, 2, dtype=torch.float64)
    start = state_of(model)
    drawn = torch.randn(5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = {"weight": list(drawn[..., :3]), "bias": list(drawn[..., 3])}
    optimizer = build_optimizer(Recipe(batch_size=2, optimizer=numbers, budget=Epochs(1)), model)
    for step in range(5):
        for name, weight in model.named_parameters():
            weight.grad = gradients[name][step].clone()
        optimizer.step()
    assert_same_state(state_of(model), {name: twin(start[name], gradients[name]) for name in start}, rtol=1e-10)


def test_an_optimizer_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    for numbers in (Lion(lr=0.1), Lars(lr=0.1), Lamb(lr=0.1)):
        kind = numbers.__struct_config__.tag
        with pytest.raises(
            RequestError, match=rf"'{kind}' needs the package pytorch-optimizer, .*rebatch\[optimizers\]"
        ):
            build_optimizer(Recipe(batch_size=2, optimizer=numbers, budget=Epochs(1)), toy_model())


has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch is older than 2.9 and has no Muon")
MUON = Recipe(
    batch_size=2,
    optimizer=Muon(lr=0.02, momentum=0.8, weight_decay=0.3, adamw_lr_factor=0.5, betas=(0.8, 0.95), eps=1e-6),
    budget=Epochs(1),
)


def language_steps(model: Transformer, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    data = toy_sequences().train
    for step in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data.inputs[step::5]), data.targets[step::5])
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()


@has_muon
def test_muon_moves_the_matrices_between_the_layers_and_adamw_the_rest() -> None:
    ours, theirs = toy_transformer(), toy_transformer()
    optimizer = build_optimizer(MUON, ours)
    hidden = [each for name, each in theirs.named_parameters() if name.startswith("blocks") and each.dim() == 2]
    others = [each for each in theirs.parameters() if all(each is not one for one in hidden)]
    assert len(hidden) == 8  # two layers of attention's two and the feed-forward's two
    muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.8, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.6)
    language_steps(ours, [optimizer], range(4))
    language_steps(theirs, [muon, adamw], range(4))
    assert_same_state(state_of(ours), state_of(theirs))
    set_lr(optimizer, 0.004)
    assert [group["lr"] for group in optimizer.param_groups] == [0.004, 0.002]


@has_muon
def test_muon_is_saved_and_taken_up_bit_for_bit() -> None:
    undisturbed, resumed = toy_transformer(), toy_transformer()
    language_steps(undisturbed, [build_optimizer(MUON, undisturbed)], range(5))
    first = build_optimizer(MUON, resumed)
    language_steps(resumed, [first], range(3))
    second = build_optimizer(MUON, resumed)
    second.load_state_dict(first.state_dict())
    language_steps(resumed, [second], range(3, 5))
    assert_same_state(state_of(resumed), state_of(undisturbed))


@has_muon
def test_muon_needs_a_matrix_between_layers() -> None:
    numbers = Muon(lr=0.1)
    with pytest.raises(RequestError, match=r"'muon' moves matrices between the layers .* has none .*; take adamw"):
        parameter_groups(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3)), numbers)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
    hidden, others = parameter_groups(model, numbers)
    assert [len(group["params"]) for group in (hidden, others)] == [1, 1]
    assert isinstance(build_optimizer(Recipe(batch_size=1, optimizer=numbers, budget=Epochs(1)), model), MuonAdamW)


NEW = [Lion(lr=0.01, weight_decay=0.2), Lamb(lr=0.01, eps=1e-9, weight_decay=0.2), Muon(lr=0.01, eps=1e-9)]


@pytest.mark.parametrize("numbers", NEW, ids=lambda numbers: type(numbers).__name__)
def test_a_gradient_eight_times_as_large_is_answered(numbers: Optimizer) -> None:
    """A power of two, which bfloat16, in which Muon computes, keeps exactly."""
    if not isinstance(numbers, Muon):
        pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers` is not installed")
    elif not hasattr(torch.optim, "Muon"):
        pytest.skip("torch is older than 2.9 and has no Muon")
    mean = Recipe(batch_size=7, optimizer=numbers, budget=Epochs(1))
    models = toy_model(norm=False), toy_model(norm=False)
    found = [
        few_steps(model, build_optimizer(recipe, model), scale=scale)
        for model, recipe, scale in zip(models, (mean, with_gradient_times(mean, 8.0)), (1.0, 8.0), strict=True)
    ]
    assert_same_state(found[0], found[1], rtol=1e-6)


def test_a_summed_loss_with_lars_is_refused() -> None:
    with pytest.raises(RequestError, match="a summed loss with LARS has no averaged form"):
        with_gradient_times(Recipe(batch_size=7, optimizer=Lars(lr=0.1), budget=Epochs(1)), 7.0)
