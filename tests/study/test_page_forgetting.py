"""`page-forgetting`: its recipes and arms, and its numbers on made-up runs whose answers are known."""

import math
from collections.abc import Mapping

import pytest
import torch

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import DataSet, Splits
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.interval import Interval
from rebatch.measure import Decay
from rebatch.recipe import Epochs, Recipe, Sgd, Steps
from rebatch.schedule import lr_factor
from rebatch.study.claims import quantities_of
from rebatch.study.finals import finals, watchers
from rebatch.study.judging import judge
from rebatch.study.plan import SCALES, Arm, Plan, RunSpec, Scale, make_plan
from rebatch.study.records import FinishedRun
from rebatch.study.studies.page_2018.forgetting import FORGETTING, quantities
from rebatch.tasks import TASKS
from rebatch.tasks.task import Task
from rebatch.training import train
from study.made_up import run, seed_of

PAGE, PROXY = "cifar10/page-resnet18", "cifar10/proxy"


def plan_of(task: str, scale: Scale) -> Plan:
    return make_plan(FORGETTING, TASKS[task], scale, execution=Execution())


def arms_of(task: str, scale: Scale) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of(task, scale).design.arms}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", ["digits/mlp", "digits/mlp-plain", "mnist/f1", PROXY, f"{PROXY}-half", PAGE])
def test_every_number_of_a_claim_is_made_of_the_design_s_arms(task: str, scale: Scale) -> None:
    plan = plan_of(task, scale)
    found = quantities(seed_of(plan))
    named = {name for claim in plan.design.claims for name in quantities_of(claim.compared)}
    assert named <= found.keys()
    ids = {claim.id for claim in plan.design.claims}
    assert ids >= {"P11", "P12", "P13", "P21-forgetting"}
    assert ({"P14", "P23"} <= ids) == (task in {PROXY, PAGE})


def test_the_published_recipes() -> None:
    arms = arms_of(PAGE, "paper")
    high, low, large = (arms[name].recipe for name in ("whole:x4", "whole:x1/4", "batch_512:x4"))
    assert high.budget == low.budget == large.budget == Epochs(30)
    # A summed loss: the rate of an example is that of the mean loss over the batch size.
    assert isinstance(high.optimizer, Sgd)
    assert [recipe.optimizer.lr * recipe.batch_size for recipe in (high, low, large)] == pytest.approx(
        [0.4, 0.025, 1.6]
    )
    assert isinstance(large.optimizer, Sgd)
    assert (high.optimizer.weight_decay, large.optimizer.weight_decay) == (5e-4 * 128, 5e-4 * 512)
    assert (high.optimizer.momentum, high.optimizer.nesterov, large.batch_size) == (0.9, True, 512)
    # 5 epochs of a straight rise, constant for 25.
    factors = [lr_factor(high.schedule, epoch / 30) for epoch in (0, 2.5, 5, 17, 29.9)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0])
    half, whole = arms["half:x4"], arms["whole:x4"]
    assert (half.data.examples, half.data.augmented) == (22_500, False)
    assert (whole.data.examples, whole.data.augmented) == (None, True)
    assert half.recipe == whole.recipe


def test_the_proxy_s_other_arms() -> None:
    arms = arms_of(PROXY, "cpu")
    parts = [arm.data.examples for name, arm in arms.items() if name.startswith("examples_")]
    assert parts == [5625, 11_250, 22_500]
    widths = {name: arm.task for name, arm in arms.items() if arm.task}
    assert widths == {"width_x0.5:x4": "cifar10/proxy-half", "width_x2:x4": "cifar10/proxy-double"}
    assert all(arms[name].recipe == arms["whole:x4"].recipe for name in widths)


def test_a_task_of_too_few_batches_is_refused() -> None:
    digits = TASKS["digits/mlp"]
    task = Task("toy/toy", digits.recipe, 900, 50, 50, classes=3, build=digits.build, load=digits.load)
    with pytest.raises(RequestError, match="needs 8 batches of 128 in an epoch, toy/toy has 900 training examples"):
        make_plan(FORGETTING, task, "quick", execution=Execution())


def forgets(
    tau: float, *, newest: float = 1.0, limit: float = 2.0, unseen: float = 2.0, low: float | None = None
) -> dict[str, float]:
    decay = Decay(limit, limit - newest, Interval(tau, tau, tau))
    ends = {"tau_low": tau / 1.1 if low is None else low, "tau_high": min(1.1 * tau, 4.0)}
    found = {"tau": tau, **ends, "newest_loss": newest, "limit_loss": limit, "unseen_loss": unseen}
    return found | {"forgotten": decay.age_at(unseen)}


def known(metrics: Mapping[str, Mapping[str, float]], diverged: frozenset[str] = frozenset()) -> dict[str, FinishedRun]:
    return {name: run(metrics=each, diverged=name in diverged) for name, each in metrics.items()}


def test_short_of_is_zero_where_nine_tenths_are_covered_at_that_age() -> None:
    # 0.9 of the way is covered at tau ln 10.
    exact = quantities(known({"whole:x4": forgets(0.5 / math.log(10)), "whole:x1/4": forgets(1.0 / math.log(10))}))
    assert exact["short_of:x4"] == pytest.approx(0.0, abs=1e-12)
    assert exact["short_of:x1/4"] == pytest.approx(0.0, abs=1e-12)
    assert exact["forgotten:whole:x4"] == pytest.approx(0.5)
    sooner = quantities(known({"whole:x4": forgets(0.1), "whole:x1/4": forgets(5.0)}))
    assert sooner["short_of:x4"] == pytest.approx(0.9 - (1 - math.exp(-5)))
    assert sooner["short_of:x1/4"] == pytest.approx(0.9 - (1 - math.exp(-0.2)))
    assert sooner["tau:whole:x1/4"] == 4.0  # no more than 4 epochs is looked at


def test_batches_replayed_as_in_training_have_numbers_of_their_own() -> None:
    running, coupled = forgets(1.0), forgets(0.1, newest=3.0, limit=4.0, unseen=4.0)
    both = running | {f"{name}:batch_statistics": value for name, value in coupled.items()}
    found = quantities(known({"whole:x4": both}))
    alone = quantities(known({"whole:x4": coupled}))
    assert {name: found[f"{name}:batch_statistics"] for name in alone if name != "diverged"}.items() <= alone.items()
    assert found["tau:whole:x4"] == 1.0


def test_gaps_are_what_the_whole_set_gains() -> None:
    losses = {"half:x4": 0.80, "whole:x4": 0.70, "half:x1/4": 0.90, "whole:x1/4": 0.40}
    runs = known({name: {"test_loss": loss} for name, loss in losses.items()})
    found = quantities(runs)
    assert found["gap:x4"] == pytest.approx(0.1)
    assert found["gap:x1/4"] == pytest.approx(0.5)
    assert found["gap_left"] == pytest.approx(0.1 - 0.25 * 0.5)
    assert found["diverged"] == 0.0
    broken = quantities(known({name: {"test_loss": 1.0} for name in losses}, diverged=frozenset({"whole:x4"})))
    assert broken.keys() & {"gap:x4", "gap_left"} == set()
    assert (broken["gap:x1/4"], broken["diverged"]) == (0.0, 1.0)


def test_taus_are_compared_in_octaves() -> None:
    found = quantities(
        known(
            {
                "whole:x4": forgets(0.4),
                "batch_512:x4": forgets(0.8),
                "width_x0.5:x4": forgets(0.1),
                "width_x2:x4": forgets(0.8),
            }
        )
    )
    assert found["tau_of_larger_batch"] == pytest.approx(1.0)
    assert found["tau_of_width_x1"] == pytest.approx(2.0)
    assert found["tau_of_width_x2"] == pytest.approx(1.0)
    assert found["tau_per_width"] == pytest.approx(1.5)


def test_a_tau_that_any_other_would_fit_as_well_decides_nothing() -> None:
    """Both beyond the longest that is looked at: equal, and not known. So too where nothing decays."""
    whole, larger = "whole:x4", "batch_128:x4"
    for unknown in (forgets(6.0), forgets(0.015, low=0.0)):
        assert quantities(known({whole: unknown, larger: forgets(0.3)}))["doubt:larger_batch"] == 16.0
    found = quantities(known({whole: forgets(0.4), larger: forgets(0.3)}))
    assert found["doubt:larger_batch"] == pytest.approx(2 * math.log2(1.1))
    (claim,) = [each for each in plan_of("digits/mlp", "cpu").design.claims if each.id == "P13"]
    for taus, verdict in (((48.0, 6.0), "undecided"), ((0.31, 0.3), "confirmed")):
        seeds = [quantities(known({whole: forgets(taus[0]), larger: forgets(taus[1])})) for _ in range(8)]
        assert {abs(each["tau_of_larger_batch"]) < 0.05 for each in seeds} == {True}
        (judged,) = judge([claim], {}, {name: dict(enumerate(each[name] for each in seeds)) for name in seeds[0]})
        assert judged.verdict == verdict


def test_the_parts_predict_the_whole() -> None:
    # tau = n^-0.5 through all parts, and the whole an octave above that line.
    parts = {f"examples_{n}:x4": forgets((n / 100) ** -0.5) for n in (100, 200, 400)}
    found = quantities(known({**parts, "whole:x4": forgets(2 * (800 / 100) ** -0.5)}))
    assert found["tau_per_doubling:parts"] == pytest.approx(-0.5)
    assert found["tau_unpredicted"] == pytest.approx(1.0)
    # Through four points at -3, -2, -1, 0 an octave at the last tilts the line by 1.5 / 5.
    assert found["tau_per_doubling"] == pytest.approx(-0.5 + 0.3)
    without = quantities(known({**dict(list(parts.items())[:1]), "whole:x4": forgets(0.4)}))
    assert not [name for name in without if name.startswith("tau_")]


def made_images() -> Splits:
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data, normalize = DataSet(images, torch.arange(4)), Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    return Splits(data, data, data, augmentations=(PadCrop(padding=4), Flip()), normalize=normalize)


@pytest.mark.parametrize("name", ["whole:x4", "batch_512:x4"])
def test_steps_of_the_paper_s_scale_run_on_a_cpu(name: str) -> None:
    recipe = arms_of(PAGE, "paper")[name].recipe.replace(batch_size=4, budget=Steps(2))
    *_, row = train(TASKS[PAGE].model(), made_images(), recipe, seed=0, evaluations=1)
    assert row["step"] == 2  # the rate of the first is 0
    assert math.isfinite(row["train_loss"])


def digits_spec(recipe: Recipe, **what: object) -> RunSpec:
    return RunSpec(task="digits/mlp", recipe=recipe, seed=0, execution=Execution(), evaluations=1, **what)  # type: ignore[arg-type]


def test_recent_forgetting_is_forgetting_without_the_curves() -> None:
    task = TASKS["digits/mlp"]
    recipe = task.recipe.replace(budget=Epochs(2))
    spec = digits_spec(recipe, finals=("forgetting", "recent_forgetting"))
    data, found = task.data(0), {}
    for name in spec.finals:
        one = digits_spec(recipe, finals=(name,))
        watched, model = watchers(one, data), task.model(0, data)
        list(train(model, data, recipe, seed=0, observers=list(watched.values()), evaluations=1))
        found[name] = finals(one, model, data, World(), watched)
    curves, numbers = found["forgetting"], found["recent_forgetting"]
    assert numbers.items() <= curves.items()
    assert all("@" in name for name in curves.keys() - numbers.keys())
    assert numbers.keys() >= {"tau", "tau:batch_statistics"}
