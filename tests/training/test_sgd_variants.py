"""Two variants of SGD against hand-written rules: momentum that sums steps, a rate of their own for norms' biases."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import Recipe, Sgd, build_optimizer, build_scheduler, draws
from rebatch.errors import RequestError
from rebatch.nn import convert_ghost_batch_norm
from rebatch.optimizers import PageSgd, parameter_groups, set_lr
from rebatch.recipe import AdamW, Defects
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Constant, PiecewiseLinear, Schedule, lr_factor
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import run, stopped_and_resumed

STEPS, BATCH = 9, 16  # 3 epochs of 37 examples in batches of 16: the last of each has 5
LR, MOMENTUM, DECAY = 0.3, 0.9, 5e-2

SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "from 0": PiecewiseLinear(points=((0.0, 0.0), (3 / 9, 1.0), (6 / 9, 0.05), (1.0, 0.0))),
    "0 between and at the end": PiecewiseLinear(
        points=((0.0, 1.0), (3 / 9, 0.0), (4 / 9, 0.0), (6 / 9, 1.0), (7 / 9, 0.0))
    ),
}


def recipe_of(schedule: Schedule, *, nesterov: bool = True, in_buffer: bool = True) -> Recipe:
    optimizer = Sgd(lr=LR, momentum=MOMENTUM, nesterov=nesterov, weight_decay=DECAY, lr_in_buffer=in_buffer)
    return RECIPE.replace(ghost_batch_size=None, max_grad_norm=None, schedule=schedule, optimizer=optimizer)


def gradient_of_sum(model: nn.Module, step: int) -> list[Tensor]:
    """Gradients of the summed loss of the examples of `step`."""
    epoch, place = divmod(step, 3)
    data = toy_splits().train
    chosen = torch.from_numpy(draws.order(1, epoch, len(data)))[place * BATCH :][:BATCH]
    loss = F.cross_entropy(model(data.inputs[chosen]), data.targets[chosen], reduction="sum")
    return list(torch.autograd.grad(loss, list(model.parameters())))


def page(schedule: Schedule, *, nesterov: bool = True, start: Callable[[int], bool] = lambda step: False) -> nn.Module:
    """Section 1 of the reference, in its own letters; the buffer is emptied before the steps that `start` names."""
    model = toy_model()
    weights = list(model.parameters())
    v = [torch.zeros_like(w) for w in weights]
    for step in range(STEPS):
        if start(step):
            v = [torch.zeros_like(w) for w in weights]
        lr = LR * lr_factor(schedule, step / STEPS)
        gradients = gradient_of_sum(model, step)
        with torch.no_grad():
            for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
                d = -(lr / BATCH) * (g + DECAY * BATCH * w)
                v[i] = MOMENTUM * v[i] + d
                w.add_(d + MOMENTUM * v[i] if nesterov else v[i])
    return model


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_are_summed_as_page_writes_it(name: str, nesterov: bool) -> None:
    schedule = SCHEDULES[name]
    _, found = run(with_loss_reduction(recipe_of(schedule, nesterov=nesterov), "sum"))
    assert_same_state(found, state_of(page(schedule, nesterov=nesterov)), rtol=1e-10)


@pytest.mark.parametrize("nesterov", [True, False])
def test_summed_steps_and_summed_gradients_are_one_rule_at_a_constant_rate_only(nesterov: bool) -> None:
    for name, same in (("constant", True), ("from 0", False)):
        recipes = [recipe_of(SCHEDULES[name], nesterov=nesterov, in_buffer=each) for each in (True, False)]
        (_, ours), (_, torchs) = map(run, recipes)
        if same:
            assert_same_state(ours, torchs, rtol=1e-10)
        else:
            assert (ours["4.weight"] - torchs["4.weight"]).abs().max() > 1e-3


def test_summed_steps_are_torchs_buffer_times_the_old_rate_over_the_new() -> None:
    # Where no rate is 0, this is another way to write the same rule.
    rates, models = [0.3, 0.1, 0.2, 0.2, 0.7], [toy_model() for _ in range(2)]
    ours = build_optimizer(recipe_of(Constant()), models[0])
    theirs = torch.optim.SGD(models[1].parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    for step, rate in enumerate(rates):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            for weight, gradient in zip(model.parameters(), gradient_of_sum(model, step), strict=True):
                weight.grad = gradient
            set_lr(optimizer, rate)
        for state in theirs.state.values():
            state["momentum_buffer"] *= rates[step - 1] / rate
        ours.step()
        theirs.step()
    assert isinstance(ours, PageSgd)
    assert_same_state(state_of(models[0]), state_of(models[1]), rtol=1e-10)


@pytest.mark.parametrize("every", [1, 2])
def test_summed_steps_are_lost_where_the_recipe_resets_momentum(every: int) -> None:
    schedule = SCHEDULES["from 0"]
    recipe = with_loss_reduction(recipe_of(schedule), "sum").replace(defects=Defects(reset_momentum_epochs=every))
    expected = page(schedule, start=lambda step: step % (3 * every) == 0)
    assert_same_state(run(recipe)[1], state_of(expected), rtol=1e-10)


def with_factor(factor: float, *, in_buffer: bool, schedule: Schedule | None = None) -> Recipe:
    recipe = recipe_of(schedule or SCHEDULES["from 0"], in_buffer=in_buffer)
    return recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, norm_bias_lr_factor=factor))


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_with_both_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    recipe = with_factor(8.0, in_buffer=True).replace(ghost_batch_size=4)
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)


@pytest.mark.parametrize("in_buffer", [False, True])
@pytest.mark.parametrize("micro_batch_size", [4, 12])
def test_micro_batch_size_does_not_change_a_run_with_both(micro_batch_size: int, in_buffer: bool) -> None:
    recipe = with_factor(8.0, in_buffer=in_buffer).replace(ghost_batch_size=4)
    assert_same_state(run(recipe, micro_batch_size=micro_batch_size)[1], run(recipe)[1], rtol=1e-10)


def test_weight_decay_ends_for_every_group() -> None:
    recipe = with_factor(8.0, in_buffer=True)
    short = recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, weight_decay_until=1 / 9))
    bare = recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, weight_decay=0.0))
    # The only step that decays has rate 0.
    assert_same_state(run(short)[1], run(bare)[1], rtol=1e-12)


@pytest.mark.parametrize("ghost", [None, 4])
def test_biases_of_batch_norm_have_a_rate_of_their_own_and_decay_alike(ghost: int | None) -> None:
    """The rule by hand: 8 x rate on the gradient, rate x decay on the weight, for each by itself."""
    schedule, factor = SCHEDULES["from 0"], 8.0
    model = toy_model() if ghost is None else convert_ghost_batch_norm(toy_model(), ghost)
    momenta = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for step in range(STEPS):
        rate, size = LR * lr_factor(schedule, step / STEPS), 5 if step % 3 == 2 else 16
        gradients = gradient_of_sum(model, step)
        with torch.no_grad():
            for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
                times = factor if name == "1.bias" else 1.0
                given = gradient / size + DECAY / times * weight
                momenta[name] = MOMENTUM * momenta[name] + given
                weight.sub_(times * rate * (given + MOMENTUM * momenta[name]))
    _, found = run(with_factor(factor, in_buffer=False).replace(ghost_batch_size=ghost))
    assert_same_state(found, state_of(model), rtol=1e-10)
    _, without = run(with_factor(1.0, in_buffer=False).replace(ghost_batch_size=ghost))
    assert (found["1.bias"] - without["1.bias"]).abs().max() > 1e-2


@pytest.mark.parametrize("in_buffer", [False, True])
def test_a_hand_written_loop_with_the_scheduler_makes_the_same_run(in_buffer: bool) -> None:
    recipe, model, data = with_factor(8.0, in_buffer=in_buffer), toy_model(), toy_splits().train
    optimizer = build_optimizer(recipe, model)
    scheduler = build_scheduler(recipe, optimizer, examples=len(data))
    for epoch in range(3):
        for chosen in torch.split(torch.from_numpy(draws.order(1, epoch, len(data))), BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(data.inputs[chosen]), data.targets[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    assert_same_state(state_of(model), run(recipe)[1], rtol=1e-10)


def test_the_decay_of_a_step_is_the_same_in_both_groups_as_in_airbench() -> None:
    model = toy_model()
    numbers = Sgd(lr=1.5, momentum=0.85, nesterov=True, weight_decay=0.002, norm_bias_lr_factor=64)
    others, biases = parameter_groups(model, numbers)
    assert [parameter is model[1].bias for parameter in biases["params"]] == [True]
    assert len(others["params"]) == len(list(model.parameters())) - 1
    assert biases["lr"] == 64 * 1.5
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(1.5 * 0.002, rel=1e-12)
    optimizer = build_optimizer(Recipe(batch_size=2, optimizer=numbers, budget=RECIPE.budget), model)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 16.0]


def test_a_rate_for_biases_that_are_not_there_is_refused() -> None:
    frozen = toy_model()
    frozen[1].bias.requires_grad_(False)
    for model in (toy_model(norm=False), frozen):
        with pytest.raises(RequestError) as caught:
            build_optimizer(with_factor(64.0, in_buffer=False), model)
        assert str(caught.value) == (
            "optimizer.norm_bias_lr_factor is 64, and no batch norm of the model has a bias that is trained; "
            "leave it out"
        )


def test_without_a_rate_for_biases_there_is_one_group() -> None:
    for numbers in (Sgd(lr=0.1), Sgd(lr=0.1, norm_bias_lr_factor=1), AdamW(lr=0.1)):
        (group,) = parameter_groups(toy_model(), numbers)
        assert group.keys() == {"params"}  # no key of ours, so that states saved before still fit


def test_a_closure_gives_the_loss_as_torchs_optimizers_have_it() -> None:
    model = toy_model(norm=False)
    before, optimizer = state_of(model), build_optimizer(recipe_of(Constant()), model)

    def closure() -> float:
        loss = model(toy_splits().train.inputs).square().mean()
        loss.backward()
        return float(loss.detach())

    with torch.no_grad():
        expected = float(model(toy_splits().train.inputs).square().mean())
    assert optimizer.step(closure) == pytest.approx(expected, rel=1e-12)
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_a_weight_without_a_gradient_stays_where_it_is() -> None:
    model = toy_model(norm=False)
    before, optimizer = state_of(model), build_optimizer(recipe_of(Constant()), model)
    optimizer.step()
    assert_same_state(state_of(model), before)
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert list(optimizer.state) == [weight]
    assert torch.equal(model.state_dict()["0.bias"], before["0.bias"])
