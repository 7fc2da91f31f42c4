"""Recipes read off live optimizers and schedulers, and applied to them: what is read is what torch does."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from msgspec.structs import astuple
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from rebatch import AdamW, Cosine, Epochs, MultiStep, Recipe, Sgd, Steps, build_optimizer, build_scheduler, transfer
from rebatch.errors import RequestError
from rebatch.live import apply_recipe, recipe_of
from rebatch.live.schedules import fitted
from rebatch.recipe import Adagrad, Budget, Optimizer, RmsProp
from rebatch.schedule import Constant, Linear, PiecewiseConstant, PiecewiseLinear, Plateau, Schedule, lr_factor
from toy import toy_model

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(lr=0.1),
    "nesterov": Sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "page": Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, lr_in_buffer=True),
    "norm biases": Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, norm_bias_lr_factor=7.0),
    "adamw": AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "rmsprop": RmsProp(lr=0.01, alpha=0.8, eps=1e-3, momentum=0.7, weight_decay=0.1),
    "adagrad": Adagrad(lr=0.1, eps=1e-3, weight_decay=0.1),
}
SCHEDULES: list[Schedule] = [Constant(), MultiStep(milestones=(0.3, 0.6)), Cosine(warmup=0.3, final=0.1)]
TOTAL = 30


def recipe(optimizer: Optimizer, schedule: Schedule | None = None) -> Recipe:
    return Recipe(batch_size=5, optimizer=optimizer, schedule=schedule or Constant(), budget=Steps(TOTAL))


def weights(*sizes: int) -> list[Tensor]:
    return [torch.zeros(size, requires_grad=True) for size in sizes]


def two_groups(**numbers: Any) -> list[dict[str, Any]]:
    """A large group and a small one, which has `numbers` of its own."""
    large, small = weights(7, 3)
    return [{"params": [small], **numbers}, {"params": [large]}]


def numbers_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_recipe_built_is_read_as_that_recipe_at_any_moment(name: str, schedule: Schedule) -> None:
    given = recipe(OPTIMIZERS[name], schedule)
    optimizer = build_optimizer(given, toy_model())
    scheduler = build_scheduler(given, optimizer, examples=37)
    for _ in range(TOTAL):
        assert recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler) == given
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applying_the_recipe_just_read_changes_nothing(name: str) -> None:
    optimizer = build_optimizer(recipe(OPTIMIZERS[name]), toy_model())
    for group, factor in zip(optimizer.param_groups[1:], (0.3, 0.7), strict=False):
        group["lr"] *= factor
    scheduler = schedulers.CosineAnnealingLR(optimizer, TOTAL)
    for _ in range(11):
        optimizer.step()
        scheduler.step()
    before, state = repr(numbers_of(optimizer)), repr(scheduler.state_dict())
    apply_recipe(recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler), optimizer, scheduler)
    assert (repr(numbers_of(optimizer)), repr(scheduler.state_dict())) == (before, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_applied_recipe_is_read_again(name: str) -> None:
    start = recipe(OPTIMIZERS[name])
    optimizer = build_optimizer(start, toy_model())
    wanted = transfer(start, batch_size=35, rules=["linear_lr", "beta2_half_life"]).recipe.as_tuned()
    wanted = wanted.replace(budget=Steps(TOTAL))
    apply_recipe(wanted, optimizer)
    assert recipe_of(optimizer, batch_size=35, budget=Steps(TOTAL)) == wanted != start


def test_the_rate_is_that_of_the_largest_group_and_others_keep_their_ratio() -> None:
    optimizer = torch.optim.AdamW(two_groups(lr=0.5, weight_decay=0.0), lr=0.01, weight_decay=0.1)
    found = recipe_of(optimizer, batch_size=5, budget=Epochs(3))
    assert found.optimizer == AdamW(lr=0.01, weight_decay=0.1)
    apply_recipe(found.replace(optimizer=AdamW(lr=0.03, weight_decay=0.7, betas=(0.5, 0.6))), optimizer)
    small, large = optimizer.param_groups
    assert (large["lr"], large["weight_decay"], large["betas"]) == (0.03, 0.7, (0.5, 0.6))
    assert (small["lr"], small["weight_decay"], small["betas"]) == (pytest.approx(1.5), 0.0, (0.5, 0.6))


def test_weight_decay_is_that_of_the_largest_group_that_has_any() -> None:
    optimizer = torch.optim.AdamW(two_groups(weight_decay=0.1), lr=0.01, weight_decay=0.0)
    assert recipe_of(optimizer, batch_size=5, budget=Epochs(3)).optimizer == AdamW(lr=0.01, weight_decay=0.1)


def test_other_fields_are_passed_on() -> None:
    optimizer = torch.optim.Adam(weights(3), lr=0.01)
    found = recipe_of(optimizer, batch_size=5, budget=Epochs(3), schedule=Cosine(), max_grad_norm=1.0)
    expected = AdamW(lr=0.01, weight_decay=0.0)
    assert found == Recipe(batch_size=5, optimizer=expected, budget=Epochs(3), schedule=Cosine(), max_grad_norm=1.0)


def flat(value: Any) -> list[float]:
    return [number for each in value for number in flat(each)] if isinstance(value, tuple) else [value]


def assert_near(found: Schedule, expected: Schedule) -> None:
    """Equal but for rounding."""
    assert type(found) is type(expected)
    assert flat(astuple(found)) == pytest.approx(flat(astuple(expected)), rel=1e-9, abs=1e-12)


def warmed(optimizer: torch.optim.Optimizer, after: LRScheduler, start: float) -> LRScheduler:
    warmup = schedulers.LinearLR(optimizer, start_factor=start, total_iters=6)
    return schedulers.SequentialLR(optimizer, [warmup, after], milestones=[6])


def transformers_cosine(step: int, *, warmup: int, total: int) -> float:
    """As the scheduler that Transformers gives is written."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


Make = Callable[[torch.optim.Optimizer], LRScheduler]
LIVE: dict[str, tuple[Make, Schedule]] = {
    "constant": (lambda o: schedulers.LambdaLR(o, lambda _: 1.0), Constant()),
    "no more than at first": (lambda o: schedulers.ConstantLR(o, 1.0, 7), Constant()),
    "constant, then more": (
        lambda o: schedulers.ConstantLR(o, 0.25, 6),
        PiecewiseConstant(points=((0.0, 0.25), (0.2, 1.0))),
    ),
    "multistep": (
        lambda o: schedulers.MultiStepLR(o, [9, 18], gamma=0.2),
        MultiStep(milestones=(0.3, 0.6), factor=0.2),
    ),
    "step": (lambda o: schedulers.StepLR(o, 12, gamma=0.5), MultiStep(milestones=(0.4, 0.8), factor=0.5)),
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, TOTAL), Cosine()),
    "cosine to a tenth": (lambda o: schedulers.CosineAnnealingLR(o, TOTAL, eta_min=0.02), Cosine(final=0.1)),
    "linear": (lambda o: schedulers.LinearLR(o, 1.0, 0.0, TOTAL), Linear()),
    "polynomial": (lambda o: schedulers.PolynomialLR(o, TOTAL), Linear()),
    "linear to a half": (
        lambda o: schedulers.LinearLR(o, 1.0, 0.5, TOTAL - 1),
        PiecewiseLinear(points=((0.0, 1.0), (29 / 30, 0.5))),
    ),
    "warm-up, cosine": (
        lambda o: warmed(o, schedulers.CosineAnnealingLR(o, TOTAL - 6), 0.01),
        Cosine(warmup=0.2),
    ),
    "warm-up, cosine to a tenth": (
        lambda o: warmed(o, schedulers.CosineAnnealingLR(o, TOTAL - 6, eta_min=0.02), 0.01),
        Cosine(warmup=0.2, final=0.1),
    ),
    "warm-up, steps": (
        lambda o: warmed(o, schedulers.MultiStepLR(o, [12]), 1e-3),
        MultiStep(milestones=(0.6,), warmup=0.2),
    ),
    "warm-up from a third, then constant": (
        lambda o: schedulers.LinearLR(o, total_iters=6),
        PiecewiseLinear(points=((0.0, 1 / 3), (0.2, 1.0), (29 / 30, 1.0))),
    ),
    "transformers": (
        lambda o: schedulers.LambdaLR(o, partial(transformers_cosine, warmup=3, total=TOTAL)),
        Cosine(warmup=0.1),
    ),
}


@pytest.mark.parametrize("name", LIVE)
def test_a_scheduler_is_read_as_what_it_does_in_every_step(name: str) -> None:
    make, expected = LIVE[name]
    optimizer = torch.optim.SGD(weights(3), lr=0.2)
    scheduler = make(optimizer)
    for step in range(TOTAL):
        found = recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler)
        assert_near(found.schedule, expected)
        factor = lr_factor(found.schedule, step / TOTAL)
        rough = step < found.schedule.warmup * TOTAL  # a warm-up from a hundredth counts as one from nothing
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * factor, rel=1e-9, abs=0.002 if rough else 1e-10)
        optimizer.step()
        scheduler.step()


def test_a_scheduler_stepped_after_every_epoch_is_stairs() -> None:
    optimizer = torch.optim.SGD(weights(3), lr=0.2)
    arguments: dict[str, Any] = {"batch_size": 5, "budget": Epochs(6), "examples": 23, "stepped": "epoch"}
    scheduler: LRScheduler = schedulers.MultiStepLR(optimizer, [3, 5], gamma=0.5)
    found = recipe_of(optimizer, scheduler=scheduler, **arguments)
    assert found.schedule == MultiStep(milestones=(0.5, 25 / 30), factor=0.5)
    scheduler = schedulers.CosineAnnealingLR(optimizer, 6)
    stairs = recipe_of(optimizer, scheduler=scheduler, **arguments).schedule
    for epoch in range(6):
        for step in range(5):
            wanted = 0.2 * lr_factor(stairs, (5 * epoch + step) / 30)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-9)
            optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("when", [3, 11])  # before and after the end of a warm-up
@pytest.mark.parametrize("make", [make for make, _ in LIVE.values()], ids=LIVE)
def test_a_scheduler_goes_on_from_the_applied_rate(make: Make, when: int) -> None:
    # A twin that had the rate from the start.
    optimizer, twin = torch.optim.SGD(weights(3), lr=0.2), torch.optim.SGD(weights(3), lr=0.6)
    scheduler = make(optimizer)
    other = make(twin)
    for part in (other, *getattr(other, "_schedulers", ())):
        if isinstance(part, schedulers.CosineAnnealingLR):
            part.eta_min *= 3
    for step in range(TOTAL):
        if step == when:
            found = recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler)
            apply_recipe(found.with_lr(0.6), optimizer, scheduler)
            again = recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler)
            assert again.optimizer == Sgd(lr=0.6)
            assert_near(again.schedule, found.schedule)
        if step >= when:
            rate = twin.param_groups[0]["lr"]
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9, abs=1e-12)
            assert scheduler.get_last_lr() == pytest.approx([rate], rel=1e-9, abs=1e-12)
        for each, its in ((optimizer, scheduler), (twin, other)):
            each.step()
            its.step()


def test_a_schedule_goes_on_in_the_middle_of_a_run_of_other_steps() -> None:
    start = recipe(Sgd(lr=0.2), Cosine(warmup=0.1))
    optimizer = build_optimizer(start, toy_model())
    scheduler = build_scheduler(start, optimizer, examples=37)
    for _ in range(12):
        optimizer.step()
        scheduler.step()
    moved = start.replace(batch_size=10, optimizer=Sgd(lr=0.4), budget=Steps(15))
    apply_recipe(moved, optimizer)
    scheduler = build_scheduler(moved, optimizer, examples=37, progress=12 / 30)
    for step in range(6, 15):
        rate = 0.4 * lr_factor(moved.schedule, step / 15)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
        assert recipe_of(optimizer, batch_size=10, budget=Steps(15), scheduler=scheduler) == moved
        optimizer.step()
        scheduler.step()


def test_a_curve_that_no_schedule_has_is_not_fitted() -> None:
    assert fitted([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]) is None
    assert fitted([1.0]) == Constant()
    nearly = [lr_factor(Cosine(), step / 30) for step in range(30)]
    assert fitted(nearly) == Cosine()
    nearly[17] += 1e-6
    assert fitted(nearly) is None


def adam(**options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights(3), lr=0.01, **options)


def sgd(**options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights(3), lr=0.01, **options)


REFUSED: dict[str, tuple[Callable[[], torch.optim.Optimizer], str]] = {
    "coupled decay": (lambda: adam(weight_decay=0.1), r"weight_decay=0.1 divides .*use torch.optim.AdamW"),
    "amsgrad": (lambda: adam(amsgrad=True), "amsgrad=True of Adam"),
    "maximize": (lambda: sgd(maximize=True), "maximize=True of SGD"),
    "dampening": (lambda: sgd(momentum=0.9, dampening=0.5), "dampening=0.5 of SGD"),
    "differentiable": (lambda: sgd(differentiable=True), "differentiable=True"),
    "centered": (lambda: torch.optim.RMSprop(weights(3), centered=True), "centered=True of RMSprop"),
    "lr_decay": (lambda: torch.optim.Adagrad(weights(3), lr_decay=0.1), "lr_decay=0.1 of Adagrad"),
    "accumulator": (
        lambda: torch.optim.Adagrad(weights(3), initial_accumulator_value=0.5),
        "initial_accumulator_value=0.5",
    ),
    "another": (lambda: torch.optim.NAdam(weights(3)), "got NAdam; .*by hand"),
    "betas": (
        lambda: torch.optim.AdamW(two_groups(betas=(0.5, 0.6)), lr=0.01),
        "got betas .*give all groups one betas",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_recipe_holds_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        recipe_of(make(), batch_size=5, budget=Epochs(3))


def course(make: Make, times: float) -> list[float]:
    """Rates of 20 steps of a scheduler; at the seventh a recipe of a rate `times` as high is applied."""
    optimizer = torch.optim.SGD(weights(3), lr=0.1, momentum=0.9)
    scheduler, found = make(optimizer), []
    for step in range(20):
        if step == 6 and times != 1.0:
            apply_recipe(recipe(Sgd(lr=0.1 * times, momentum=0.9)), optimizer, scheduler)
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if isinstance(scheduler, schedulers.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    return found


FOLLOWING: dict[str, Make] = {
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 8, eta_min=0.01),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.9),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1.0, 5), schedulers.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("make", [make for make, _ in LIVE.values()] + list(FOLLOWING.values()))
def test_an_applied_rate_lasts_to_the_end_of_every_scheduler_that_is_taken(make: Make) -> None:
    assert course(make, 4.0)[6:] == pytest.approx([4.0 * rate for rate in course(make, 1.0)[6:]], abs=1e-12)


def test_a_plateau_s_floor_moves_with_the_rate() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return schedulers.ReduceLROnPlateau(optimizer, patience=3, factor=0.1, min_lr=0.005)

    optimizer = torch.optim.SGD(weights(3), lr=0.1)
    scheduler = plateau(optimizer)
    apply_recipe(recipe(Sgd(lr=0.4)), optimizer, scheduler)
    for _ in range(20):
        optimizer.step()
        scheduler.step(1.0)  # type: ignore[arg-type]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedulers.OneCycleLR(o, max_lr=0.5, total_steps=40),
        lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=7),
        lambda o: SWALR(o, swa_lr=0.05),
        lambda o: schedulers.SequentialLR(o, [schedulers.ConstantLR(o), SWALR(o, swa_lr=0.05)], [5]),
    ],
    ids=["one cycle", "cyclic", "swa", "within another"],
)
def test_a_scheduler_with_rates_of_its_own_is_refused_and_nothing_is_changed(make: Make) -> None:
    optimizer = torch.optim.SGD(weights(3), lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    kept = numbers_of(optimizer)
    with pytest.raises(RequestError, match="may keep rates of its own, which would come back; apply the recipe to"):
        apply_recipe(recipe(Sgd(lr=0.4, momentum=0.9)), optimizer, scheduler)
    assert numbers_of(optimizer) == kept


def test_a_rate_that_was_lowered_unseen_is_given_and_a_cycled_one_refused() -> None:
    optimizer = torch.optim.SGD(weights(3), lr=0.1)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    for _ in range(3):
        optimizer.step()
        scheduler.step(1.0)
    schedule = Plateau(patience=0.1)
    found = recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), schedule=schedule, lr=0.1)
    assert (found.optimizer.lr, found.schedule) == (0.1, schedule)
    with pytest.raises(RequestError, match=r"schedule=... instead, and the rate that was tuned as lr=..."):
        recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler)
    cycled = torch.optim.SGD(weights(3), lr=0.1, momentum=0.9)
    schedulers.OneCycleLR(cycled, max_lr=0.5, total_steps=40)
    with pytest.raises(RequestError, match="holds max_lr: OneCycleLR or CyclicLR moves rate and momentum"):
        recipe_of(cycled, batch_size=5, budget=Steps(TOTAL), schedule=Cosine())


UNREADABLE: dict[str, tuple[Make, str]] = {
    "plateau": (lambda o: schedulers.ReduceLROnPlateau(o), "ReduceLROnPlateau cannot be read: .* pass .* schedule="),
    "restarts": (lambda o: schedulers.CosineAnnealingWarmRestarts(o, 7), "cannot be read"),
    "exponential": (
        lambda o: schedulers.ExponentialLR(o, 0.9),
        "no schedule of a recipe follows ExponentialLR over 30",
    ),
    "too short": (lambda o: schedulers.CosineAnnealingLR(o, 11), "is the budget right"),
    "apart": (
        lambda o: schedulers.LambdaLR(o, [lambda step: 1.0, lambda step: 1.0 / (1 + step)]),
        "moves the groups' rates apart",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_scheduler_that_cannot_be_read_is_refused_with_the_way_out(name: str) -> None:
    make, message = UNREADABLE[name]
    optimizer = torch.optim.SGD(two_groups(), lr=0.2)
    scheduler = make(optimizer)
    with pytest.raises(RequestError, match=message):
        recipe_of(optimizer, batch_size=5, budget=Steps(TOTAL), scheduler=scheduler)


PER_EPOCH: dict[str, Make] = {
    "drops": lambda optimizer: schedulers.MultiStepLR(optimizer, [10, 20, 30]),
    "halvings": lambda optimizer: schedulers.StepLR(optimizer, 5, 0.5),
    "polynomial": lambda optimizer: schedulers.PolynomialLR(optimizer, 50),
    "linear": lambda optimizer: schedulers.LinearLR(optimizer, 1.0, 0.0, 50),
}


@pytest.mark.parametrize("name", PER_EPOCH)
@pytest.mark.parametrize("budget", [Epochs(50), Steps(50 * 47)])
def test_a_scheduler_that_counts_epochs_is_not_read_as_one_that_counts_steps(name: str, budget: Budget) -> None:
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    scheduler = PER_EPOCH[name](optimizer)
    with pytest.raises(RequestError, match=r"called after every epoch say stepped='epoch'"):
        recipe_of(optimizer, batch_size=128, budget=budget, scheduler=scheduler, examples=6000)
    read = recipe_of(optimizer, batch_size=128, budget=budget, scheduler=scheduler, examples=6000, stepped="epoch")
    assert lr_factor(read.schedule, 0.1) > 0.2


SHORT: dict[str, tuple[Make, Budget]] = {
    "a warm-up": (lambda optimizer: schedulers.LinearLR(optimizer, 0.01, 1.0, 20), Epochs(50)),
    "a low start": (lambda optimizer: schedulers.ConstantLR(optimizer, 0.1, 20), Epochs(50)),
    "an early drop of one epoch": (lambda optimizer: schedulers.MultiStepLR(optimizer, [10]), Epochs(1)),
}


@pytest.mark.parametrize("name", SHORT)
def test_what_ends_early_for_a_reason_is_still_read(name: str) -> None:
    make, budget = SHORT[name]
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    read = recipe_of(optimizer, batch_size=128, budget=budget, scheduler=scheduler, examples=6000)
    assert read.schedule != Constant()


def test_a_rate_that_a_scheduler_moved_is_not_taken_for_the_base_rate() -> None:
    optimizer = torch.optim.SGD(weights(3), lr=0.2)
    scheduler = schedulers.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    with pytest.raises(RequestError, match=r"from 0.2 to 0.1; pass it as scheduler="):
        recipe_of(optimizer, batch_size=5, budget=Epochs(3))
    assert recipe_of(optimizer, batch_size=5, budget=Epochs(3), schedule=Linear()).optimizer.lr == 0.2
    with pytest.raises(RequestError, match="both given"):
        recipe_of(optimizer, batch_size=5, budget=Epochs(3), schedule=Linear(), scheduler=scheduler)
    with pytest.raises(RequestError, match="give examples=N"):
        recipe_of(optimizer, batch_size=5, budget=Epochs(3), scheduler=scheduler)
    with pytest.raises(RequestError, match="belongs to another optimizer"):
        recipe_of(sgd(), batch_size=5, budget=Epochs(3), scheduler=scheduler)


def test_a_scheduler_built_for_other_steps_than_the_budget_has_is_refused() -> None:
    given = recipe(Sgd(lr=0.2), Cosine())
    optimizer = build_optimizer(given, toy_model())
    scheduler = build_scheduler(given, optimizer, examples=37)
    with pytest.raises(RequestError, match="built for 30 steps, and the budget has 31"):
        recipe_of(optimizer, batch_size=5, budget=Steps(31), scheduler=scheduler)
    with pytest.raises(RequestError, match=r"0 <= progress < 1, got 1"):
        build_scheduler(given, optimizer, examples=37, progress=1.0)


def test_a_recipe_that_an_optimizer_cannot_follow_is_refused() -> None:
    decaying = AdamW(lr=0.01, weight_decay=0.1)
    cases: list[tuple[Optimizer, torch.optim.Optimizer, str]] = [
        (AdamW(lr=0.1), sgd(), "optimizer.type is 'adamw', and the optimizer is SGD"),
        (Sgd(lr=0.1, momentum=0.9, lr_in_buffer=True), sgd(), "lr_in_buffer is True"),
        (Sgd(lr=0.1, norm_bias_lr_factor=2.0), sgd(), "norm_bias_lr_factor is 2, and the optimizer was built with 1"),
        (decaying, adam(), "use torch.optim.AdamW"),
        (decaying, torch.optim.AdamW(two_groups(), lr=0.01, weight_decay=0.0), "none of 2 groups has any"),
    ]
    for numbers, optimizer, message in cases:
        before = repr(numbers_of(optimizer))
        with pytest.raises(RequestError, match=message):
            apply_recipe(recipe(numbers), optimizer)
        assert repr(numbers_of(optimizer)) == before


def test_a_rate_in_a_tensor_stays_one() -> None:
    optimizer = torch.optim.AdamW(weights(3), lr=torch.tensor(0.25), foreach=False)
    tensor = optimizer.param_groups[0]["lr"]
    found = recipe_of(optimizer, batch_size=5, budget=Epochs(3))
    apply_recipe(found.with_lr(0.5), optimizer)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == 0.5


def test_a_model_trains_on_as_one_with_the_recipe_from_the_start() -> None:
    def run(applied: bool) -> Tensor:
        model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(model.weight, 0.5)
        wanted = recipe(AdamW(lr=0.05, betas=(0.5, 0.7), eps=1e-4, weight_decay=0.3))
        optimizer = build_optimizer(recipe(AdamW(lr=0.01)) if applied else wanted, model)
        if applied:
            apply_recipe(wanted, optimizer)
        for gradient in (0.3, -2.0, 0.07):
            model.weight.grad = torch.full((1, 3), gradient, dtype=torch.float64)
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(run(True), run(False))
