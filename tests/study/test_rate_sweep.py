"""`rate-sweep` and the pairs made of it: its arms are where the rules go, and its numbers those of known sweeps."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.measure.noise_scale import NoiseScale
from rebatch.observation import Call, Observation, Observer
from rebatch.recipe import AdamW, Epochs, Recipe, Sgd
from rebatch.rules.move import Facts
from rebatch.study.carried_rates import (
    CARRIED,
    TENTHS,
    UNRESOLVED,
    Landing,
    Trial,
    curves,
    landings,
    late_noise_scale,
)
from rebatch.study.finals import finals, watchers
from rebatch.study.noise_tenths import SHARE
from rebatch.study.plan import Plan, RunSpec, make_plan
from rebatch.study.studies.rebatch.rate_sweep import OPTIMIZERS, RATE_SWEEP, Point, quantities, recipe_at
from rebatch.tasks import TASKS
from rebatch.training import train
from rebatch.transfer import transfer
from study.made_up import seed_of
from toy import assert_same_state, state_of

TASK = TASKS["digits/mlp-plain"]
CHANCE = math.log(10)
SGD = Recipe(batch_size=32, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(4))


def plan_of(task: str) -> Plan:
    return make_plan(RATE_SWEEP, TASKS[task], "cpu", execution=Execution())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("old", "new"), [(16, 256), (256, 16), (32, 128), (64, 32)])
def test_what_the_default_rules_make_of_an_arm_is_an_arm_but_for_its_rate(optimizer: str, old: int, new: int) -> None:
    start = recipe_at(Point(optimizer, old, 0.01), TASK, 20, None)
    facts = Facts(noise_scale=100.0)
    moved = transfer(start, batch_size=new, examples=TASK.train, facts=facts).recipe.replace(ghost_batch_size=None)
    wanted = recipe_at(Point(optimizer, new, moved.optimizer.lr), TASK, 20, None)
    assert moved.optimizer.weight_decay == pytest.approx(wanted.optimizer.weight_decay, rel=1e-10)
    if isinstance(moved.optimizer, AdamW) and isinstance(wanted.optimizer, AdamW):
        assert moved.optimizer.betas == pytest.approx(wanted.optimizer.betas, rel=1e-10)
    assert moved.budget == wanted.budget


@pytest.mark.parametrize("task", ["digits/mlp-plain", "mnist/f1", "cifar10/proxy"])
def test_batch_norm_sees_the_same_ghosts_everywhere_and_every_batch_has_two_to_be_split(task: str) -> None:
    recipes = [arm.recipe for arm in plan_of(task).design.arms]
    (ghosts,) = {recipe.ghost_batch_size for recipe in recipes}
    if task == "digits/mlp-plain":
        assert ghosts is None
    else:
        assert ghosts is not None
        assert min(recipe.batch_size for recipe in recipes) == 2 * ghosts


def trial(batch_size: int, lr: float, loss: float, noise: float = math.nan) -> Trial:
    return Trial(batch_size, lr, loss, (noise,) * TENTHS, (1.0,) * TENTHS, CHANCE)


def sweep(best: Callable[[int], float], noise: float, sizes: tuple[int, ...] = (16, 32, 64, 128, 256)) -> list[Trial]:
    """Parabolas in ln lr of height .02 around `best`."""
    rates = [0.001 * 2.0**octave for octave in range(12)]
    return [trial(b, lr, 0.1 + 0.02 * math.log(lr / best(b)) ** 2, noise) for b in sizes for lr in rates]


def by_rule(found: list[Landing], rule: str) -> list[Landing]:
    return [landing for landing in found if landing.rule == rule]


def test_a_rule_that_is_the_sweep_s_own_law_lands_on_the_best_rates() -> None:
    found = landings(sweep(lambda b: 0.0005 * b, math.inf), SGD, 10**9)
    for rule in ("linear", "gain", "default"):  # an unresolved noise scale lies far above
        assert len(by_rule(found, rule)) == 20
        assert all(landing.lr == pytest.approx(landing.best_lr, rel=1e-4) for landing in by_rule(found, rule))
    halves = landings(sweep(lambda b: 0.003 * math.sqrt(b), math.inf), SGD, 10**9)
    assert all(landing.lr == pytest.approx(landing.best_lr, rel=1e-9) for landing in by_rule(halves, "sqrt"))


def test_the_gain_at_the_measured_noise_scale_and_a_sweep_s_knee_find_a_saturating_law() -> None:
    found = landings(sweep(lambda b: 0.2 / (1 + 90 / b), 90.0), SGD, 10**9)
    for rule in ("gain", "default"):
        assert all(landing.lr == pytest.approx(landing.best_lr, rel=1e-6) for landing in by_rule(found, rule))
    assert all(landing.lr == pytest.approx(landing.best_lr, rel=0.02) for landing in by_rule(found, "sweep"))
    assert len(by_rule(found, "sweep")) == 20


def test_the_knee_of_the_sweep_has_not_seen_the_batch_size_that_it_is_tried_on() -> None:
    """An outlier at 256 does not move what is predicted there."""
    true = sweep(lambda b: 0.2 / (1 + 90 / b), 90.0)
    off = sweep(lambda b: 0.2 / (1 + 90 / b) * (3 if b == 256 else 1), 90.0)
    rates = [
        [landing.lr for landing in by_rule(landings(trials, SGD, 10**9), "sweep") if landing.new == 256]
        for trials in (true, off)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def test_regret_and_nearness_of_the_constant_rate_are_those_of_the_parabola() -> None:
    """Worked out: .02 ln(16)^2 over 16 times the batch size, up to the lines between doublings (.02 ln(2)^2 / 4)."""
    found = by_rule(landings(sweep(lambda b: 0.0005 * b, math.inf), SGD, 10**9), "constant")
    far = next(landing for landing in found if (landing.old, landing.new) == (16, 256))
    assert far.regret == pytest.approx(0.02 * math.log(16) ** 2, abs=0.0025)
    assert far.relative == pytest.approx(far.regret / 0.1, rel=0.03)
    assert not far.near
    assert not far.beyond
    slow = by_rule(landings(sweep(lambda b: 0.05 * (b / 64) ** 0.5, math.inf), SGD, 10**9), "constant")
    assert {abs(math.log2(each.new / each.old)) for each in slow if each.near} == {1.0}  # sqrt(2) < 1.5 < 2


def test_a_diverged_run_counts_as_a_guess_and_a_best_rate_at_an_end_for_no_pair() -> None:
    trials = sweep(lambda b: 0.0005 * b, math.inf)
    broken = [trial(t.batch_size, t.lr, math.inf) if t.batch_size == 32 and t.lr > 0.2 else t for t in trials]
    assert curves(broken)[32].losses[-1] == pytest.approx(CHANCE)
    ends = [trial(t.batch_size, t.lr, t.lr) if t.batch_size == 32 else t for t in trials]
    assert sorted(curves(ends)) == [16, 64, 128, 256]
    assert {32} & {size for each in landings(ends, SGD, 10**9) for size in (each.old, each.new)} == set()


def test_the_noise_scale_is_a_ratio_of_means_of_late_tenths() -> None:
    rising = Trial(32, 0.1, 0.1, tuple(map(float, range(1, 11))), (1.0,) * 5 + (2.0,) * 5, CHANCE)
    assert late_noise_scale([rising]) == pytest.approx(8.0 / 2.0)
    assert late_noise_scale([rising, rising]) == late_noise_scale([rising])
    negative = Trial(32, 0.1, 0.1, (1.0,) * TENTHS, (-1.0,) * TENTHS, CHANCE)
    assert late_noise_scale([negative]) == UNRESOLVED
    assert late_noise_scale([negative, negative, rising, rising, rising, rising, rising]) < UNRESOLVED


@pytest.mark.parametrize("task", ["digits/mlp-plain", "mnist/f1"])
def test_the_numbers_of_a_seed_where_the_default_s_own_curves_hold(task: str) -> None:
    plan = plan_of(task)
    found = quantities(seed_of(plan))
    for optimizer in OPTIMIZERS:
        assert found[f"near:{optimizer}, default"] == 1.0
        assert found[f"near:{optimizer}, linear"] < 0.8
        for rule in ("constant", "sqrt", "linear"):
            saved = found[f"regret:{optimizer}, {rule}"] - found[f"regret:{optimizer}, default"]
            assert found[f"saved:{optimizer}, {rule}"] == pytest.approx(saved, abs=1e-12)
        assert found[f"saved:{optimizer}, constant"] > 0.0
        assert {rule for rule in CARRIED if f"near:{optimizer}, {rule}" in found} == set(CARRIED)


def test_tenths_of_a_run_are_what_a_window_over_them_measures_and_leave_no_trace() -> None:
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=0.05, momentum=0.9), budget=Epochs(1.25))  # 40 steps, 4 a tenth
    spec = RunSpec(task=TASK.name, recipe=recipe, seed=0, finals=("noise_tenths",))
    data = TASK.data(0)
    model, watched = TASK.model(0, data), watchers(spec, data)
    list(train(model, data, recipe, seed=0, observers=list(watched.values()), evaluations=1))
    found = finals(spec, model, data, World(), watched)

    other, window = TASK.model(0, data), NoiseScale(window=4, split_every=1, split_share=SHARE)
    rows = list(train(other, data, recipe, seed=0, observers=[window], evaluations=10))
    for tenth in range(1, TENTHS + 1):
        row = next(row for row in rows if row["step"] == 4 * tenth)
        for name in ("trace", "square"):
            assert found[f"noise_{name}@{tenth / TENTHS:g}"] == pytest.approx(row[name], rel=1e-10)

    plain = TASK.model(0, data)
    list(train(plain, data, recipe, seed=0, evaluations=1))
    assert_same_state(state_of(model), state_of(plain))


class Later(Observer):
    """`inner` as a run that was resumed at step 22 knows it: with what was kept there, and the steps from there on."""

    sees_micro_batches = True

    def __init__(self, inner: Observer, kept: Mapping[str, Any]) -> None:
        self.inner, self._kept, self._seen = inner, kept, 0

    @property
    def sees_calls(self) -> bool:
        return self._seen >= 22 and self.inner.sees_calls

    def start(self, model: nn.Module) -> None:
        self.inner.start(model)
        self.inner.load_state_dict(self._kept)

    def call(self, call: Call) -> None:
        self.inner.call(call)

    def gradient(self, position: int, gradient: Tensor) -> None:
        if self._seen >= 22:
            self.inner.gradient(position, gradient)

    def micro_batch(self, examples: int) -> None:
        if self._seen >= 22:
            self.inner.micro_batch(examples)

    def step(self, observation: Observation) -> None:
        if self._seen >= 22:
            self.inner.step(observation)
        self._seen += 1


def test_tenths_go_on_where_a_run_was_resumed() -> None:
    """In the middle of the sixth tenth."""
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=0.05), budget=Epochs(1.25))
    spec = RunSpec(task=TASK.name, recipe=recipe, seed=0, finals=("noise_tenths",))
    data = TASK.data(0)
    kept: dict[str, Any] = {}
    (whole,) = watchers(spec, data).values()
    for row in train(TASK.model(0, data), data, recipe, seed=0, observers=[whole], evaluations=20):
        kept = copy.deepcopy(whole.state_dict()) if row["step"] == 22 else kept
    (again,) = watchers(spec, data).values()
    list(train(TASK.model(0, data), data, recipe, seed=0, observers=[Later(again, kept)], evaluations=20))
    found, wanted = again.state_dict()["found"], whole.state_dict()["found"]
    assert found.keys() == wanted.keys()
    assert len(wanted) == 2 * TENTHS
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_best_rate_may_be_read_from_the_valley_alone() -> None:
    """A cliff of 20 times the lowest loss, one rate above it, pulls the vertex of a wide parabola."""
    losses = {0.01: 0.4, 0.02: 0.2, 0.04: 0.12, 0.08: 0.1, 0.16: 0.14, 0.32: 2.0, 0.64: 2.1}
    trials = [trial(32, lr, loss) for lr, loss in losses.items()]
    wide, near = (curves(trials, highest=highest)[32].best for highest in (math.inf, 2.0))
    assert wide.lr == pytest.approx(0.04)
    assert near.rates == 4
    # Through .02 to .16, by hand: .03 u^2 - .02 u + const, u in octaves from the middle of the four.
    assert near.lr == pytest.approx(0.08 * 2 ** (-1 / 6), rel=1e-9)
    alone = curves(trials, highest=1.0)[32].best
    assert (alone.rates, alone.edge) == (3, None)
