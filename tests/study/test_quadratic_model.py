"""`quadratic-model`: its arms, its numbers by hand, its probe against the model, and what would turn its verdicts."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from rebatch import draws
from rebatch.execution import Execution
from rebatch.quadratic import NoisyQuadratic, steps_to_target
from rebatch.recipe import Sgd
from rebatch.study.judging import judge
from rebatch.study.mini_batch_probing import quadratic_steps
from rebatch.study.plan import SCALES, Arm, Plan, Scale, make_plan
from rebatch.study.probes import QuadraticSteps
from rebatch.study.studies.mini_batches.quadratic_model import QUADRATIC_MODEL, SIZES, hyperbola, quantities
from rebatch.tasks import find_task
from study.made_up import run

FLOOR, CRITICAL = 1000.0, 256.0


def plan_of(scale: Scale = "quick") -> Plan:
    return make_plan(QUADRATIC_MODEL, find_task("simulation"), scale, execution=Execution())


def by_hand(steps: Mapping[str, float], *, rate: float = 0.1) -> dict[str, float]:
    """The numbers of arms whose steps are a hyperbola's, but for those in `steps`."""
    runs = {}
    for arm in plan_of().design.arms:
        name, _, size = arm.name.partition(":")
        noise = 0.0 if size == "exact" else (CRITICAL if name == "sgd" else 10 * CRITICAL) / int(size)
        taken = steps.get(arm.name, FLOOR * (1.0 + noise))
        momentum = arm.recipe.optimizer.momentum if isinstance(arm.recipe.optimizer, Sgd) else math.nan
        runs[arm.name] = run(metrics={"steps": taken, "lr": rate * (1 - momentum)}, recipe=arm.recipe)
    return dict(quantities(runs))


def test_arms_have_the_batch_the_momentum_and_the_noise_of_their_names() -> None:
    arms = plan_of().design.arms
    assert len(arms) == len({arm.name for arm in arms}) == 2 * (len(SIZES) + 1)
    for arm in arms:
        name, _, size = arm.name.partition(":")
        assert isinstance(arm.probe, QuadraticSteps)
        assert isinstance(arm.recipe.optimizer, Sgd)
        assert arm.recipe.optimizer.momentum == {"sgd": 0.0, "momentum": 0.9}[name]
        assert arm.probe.exact == (size == "exact")
        assert arm.probe.exact or arm.recipe.batch_size == int(size)
    assert [plan_of(scale).design.seeds for scale in SCALES] == [3, 10, 20]


def test_the_critical_batch_size_is_that_of_the_hyperbola_through_both_ends() -> None:
    found = by_hand({})
    assert found["critical:sgd"] == pytest.approx(CRITICAL)
    assert found["critical_ratio"] == pytest.approx(10)
    assert found["off_hyperbola:sgd"] == pytest.approx(0.0, abs=1e-12)
    assert found["single_over_best"] == pytest.approx((1 + CRITICAL) / (4 + CRITICAL))
    slow = by_hand({"sgd:1024": 1.3 * hyperbola(FLOOR, CRITICAL, 1024)})
    assert slow["off_hyperbola:sgd"] == pytest.approx(0.3)


def test_ratios_are_those_of_the_arms_that_claims_name() -> None:
    found = by_hand({"sgd:64": 50.0, "sgd:16384": 30.0, "sgd:1024": 20.0, "sgd:1048576": 1020.0})
    assert found["examples:sgd:64"] == 3200.0
    assert found["below"] == pytest.approx(3200.0 / (FLOOR * 257))
    assert found["above"] == pytest.approx(16 * 1.5)
    assert found["single_over_best"] == pytest.approx(FLOOR * 257 / 3200)
    assert found["last_over_floor"] == pytest.approx(1.02)
    assert found["rate:momentum:64"] == pytest.approx(0.1)
    assert found["rate_ratio"] == pytest.approx(1.0)


def test_time_is_steps_times_a_step_s_time_over_the_best_batch_s() -> None:
    found = by_hand({})
    time = {size: FLOOR * (1 + CRITICAL / size) * (64 + size) for size in SIZES}
    assert min(time, key=time.__getitem__) in (64, 256)  # sqrt(64 * 256) = 128
    assert found["time:64:smallest"] == pytest.approx(time[1] / min(time.values()))
    assert found["time:64:largest"] == pytest.approx(time[2**20] / min(time.values()))
    assert found["time:4:predicted"] == pytest.approx(1.0)  # sqrt(4 * 256) = 32, with 16 as good as 64


def test_an_unfinished_seed_has_its_steps_alone() -> None:
    arm = plan_of().design.arms[3]
    found = quantities({arm.name: run(metrics={"steps": 7.0, "lr": 0.5}, recipe=arm.recipe)})
    assert found == {"steps:sgd:64": 7.0, "rate:sgd:64": 0.5, "examples:sgd:64": 448.0}


@pytest.mark.parametrize(
    ("claim", "steps", "verdict"),
    [
        ("Q3-below", {}, "refuted"),  # at 64 a hyperbola with 256 takes a quarter more
        ("Q3", {}, "confirmed"),
        ("Q3", {"sgd:64": FLOOR * 4.1}, "refuted"),
        ("Q3-hyperbola", {}, "confirmed"),
        ("Q3-hyperbola", {"momentum:256": FLOOR * 20}, "refuted"),
        ("Q3-greedy", {}, "refuted"),
        ("Q3-greedy", {"momentum:exact": FLOOR * 100}, "confirmed"),
        ("Q6-exact", {}, "refuted"),
        ("Q6-exact", {"sgd:1": FLOOR * 300}, "confirmed"),
        ("Q15-exact", {"sgd:exact": 1900.0}, "refuted"),
        ("Q16-exact", {}, "confirmed"),
        ("Q16-law", {"sgd:4096": FLOOR * 0.1}, "refuted"),
    ],
)
def test_verdicts_follow_the_steps(claim: str, steps: Mapping[str, float], verdict: str) -> None:
    (asked,) = [each for each in plan_of().design.claims if each.id == claim]
    values = {name: {seed: value * (1 + 1e-6 * seed) for seed in range(10)} for name, value in by_hand(steps).items()}
    (found,) = judge([asked], {}, values)
    assert found.verdict == verdict


def probed(arm: Arm, *, seed: int, coordinates: int = 40) -> dict[str, float]:
    spec = plan_of().spec(arm, seed)
    assert isinstance(spec.probe, QuadraticSteps)
    small = QuadraticSteps(coordinates=coordinates, exact=spec.probe.exact)
    changed = type(spec)(task=spec.task, recipe=spec.recipe, seed=seed, probe=small)
    return quadratic_steps(changed, find_task("simulation"), None)[1]


def test_the_probe_takes_the_arm_s_batch_and_momentum_from_the_seed_s_start() -> None:
    arms = {arm.name: arm for arm in plan_of().design.arms}
    start = draws.generator(2, "quadratic start").standard_normal(40) ** 2
    model = NoisyQuadratic(1.0 / np.arange(1, 41), start)
    for name, batch_size, momentum in (("sgd:16", 16, 0.0), ("momentum:64", 64, 0.9), ("sgd:exact", math.inf, 0.0)):
        found = probed(arms[name], seed=2)
        assert found["steps"] == steps_to_target(model, batch_size, found["lr"], momentum)
        for other in (0.9, 1.1):
            assert found["steps"] <= steps_to_target(model, batch_size, other * found["lr"], momentum)
