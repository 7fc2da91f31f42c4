"""Stores of the built-in studies that never ran: every arm's rows and numbers made up from (arm, seed)."""

import math
import random
from pathlib import Path

from rebatch.batching import examples_seen, measured_steps
from rebatch.execution import Execution
from rebatch.report.paper.material import Material, Published, gather
from rebatch.report.summary import summarize
from rebatch.study.choosing import choose
from rebatch.study.plan import Arm, Plan, make_plan
from rebatch.study.probes import (
    Bagging,
    Cuts,
    Escape,
    GradientErrors,
    KeptImages,
    Landscape,
    Parting,
    QuadraticSteps,
    RandomWalk,
    StepTimes,
    SummedSteps,
    Throughput,
    ToTarget,
)
from rebatch.study.quantify import quantify
from rebatch.study.store import Result, Store
from rebatch.study.studies import STUDIES
from rebatch.tasks import find_task
from study.made_up_rates import rate_metrics
from study.made_up_sweep import sweep_metrics

Rows = list[dict[str, float]]


def made_up(
    study: str, root: Path, *, task: str | None = None, seeds: int = 3, published: tuple[Published, ...] = ()
) -> Material:
    """What the figure of a study is made of, all runs done."""
    store, plan = made_up_store(study, root, task=task, seeds=seeds)
    return gather(plan, store, summarize(plan, store), published)


def made_up_store(study: str, root: Path, *, task: str | None = None, seeds: int = 3) -> tuple[Store, Plan]:
    """A store in which all runs of a study are done."""
    asked = STUDIES[study]
    plan = make_plan(asked, find_task(task or asked.task), "quick", execution=Execution(), seeds=seeds)
    store = Store(root / study, create=True)
    store.save_plan(plan)
    _run(plan, store)
    plan = choose(plan, store)  # of the candidates, where arms wait for some
    _run(plan, store)
    store.save_plan(plan)
    found = quantify(asked, plan, store)
    store.save_quantities(plan, found.numbers, found.made_of)
    return store, plan


def _run(plan: Plan, store: Store) -> None:
    for arm, seed in plan.runs():
        folder = store.begin(plan.spec(arm, seed))
        folder.keep_rows(0)
        rows = _rows(plan, arm, seed)
        for row in rows:
            folder.append(row)
        folder.finish(_result(plan, arm, seed, rows))


def _rows(plan: Plan, arm: Arm, seed: int) -> Rows:
    noise = random.Random(f"{arm.name} {seed}")
    match arm.probe:
        case RandomWalk(alpha=alpha):
            logs = [1.0 + 0.5 * place for place in range(8)]
            power = [t / 2 if alpha is None else math.log(t) * 2 / alpha for t in logs]
            wobble = [0.0 if alpha is None else noise.gauss(0, 0.05) for _ in logs]
            pairs = zip(logs, power, wobble, strict=True)
            return [{"step": math.exp(t), "log_time": t, "distance": math.exp(p + w)} for t, p, w in pairs]
        case Landscape():
            places = [0.05 * 1.3**place for place in range(30)]
            return [
                {
                    "step": z,
                    "rms": 0.01 * z * math.exp(noise.gauss(0, 0.1)),
                    "standard_error": 0.001,
                    "taylor": 0.01 * z,
                }
                for z in places
            ]
        case SummedSteps(rates=rates):
            return [{"step": rate, "relative": 0.1 * rate * math.exp(noise.gauss(0, 0.1))} for rate in rates]
        case Parting():
            places = [0.1 * 2.0**place for place in range(8)]
            return [
                {
                    "step": 1000.0 * epoch,
                    "epoch": epoch,
                    "distance": epoch**0.3 * math.exp(noise.gauss(0, 0.1)),
                    "distance_orders": 1.2 * epoch**0.3 * math.exp(noise.gauss(0, 0.1)),
                }
                for epoch in places
            ]
        case None:
            return _course(plan, arm, noise)
        case _:
            return []


def _course(plan: Plan, arm: Arm, noise: random.Random) -> Rows:
    total = plan.steps(arm)
    logarithmic, even = measured_steps(total, plan.design.evaluations)
    shift = 1.0 + 0.05 * noise.random()
    rows = []
    for step in sorted({*logarithmic, *even}):
        seen = examples_seen(step, plan.examples, arm.recipe)
        row = {"step": step, "examples": seen, "epoch": seen / plan.examples, "lr": 0.1, "train_loss": 1 / (1 + step)}
        row |= {"weight_distance": shift * math.log1p(step), "weight_distance_first": 0.4 * shift * math.log1p(step)}
        if step in even:
            row["validation_accuracy"] = 97.0 - 60.0 * math.exp(-6.0 * step / total) + noise.gauss(0, 0.2)
            row["validation_loss"] = 0.1 + 0.02 * abs(math.log(2 * step / total))
            if "recomputed_statistics" in arm.finals:
                row["recomputed_accuracy"] = 97.0 + noise.gauss(0, 0.05)
        rows.append(row)
    return rows


def _result(plan: Plan, arm: Arm, seed: int, rows: Rows) -> Result:
    noise = random.Random(f"result {arm.name} {seed}")
    if arm.probe is None:
        last = dict(rows[-1])
        last |= {"final_train_loss": 0.01 * noise.random(), "top_eigenvalue": 5.0 + noise.random()}
        last |= {"rescaled_eigenvalue": 200.0 + noise.random(), "rescaled_outputs_move": 0.0}
        last |= {"final_train_accuracy": 100.0, "ghost_statistics_accuracy": 95.0}
        last |= _forgetting(noise) if {"forgetting", "recent_forgetting"} & set(arm.finals) else {}
        accuracy, test_loss = 96.0 + noise.random(), 0.5 + 0.1 * noise.random()
        last |= sweep_metrics(arm, plan) if plan.study == "page-sweep" else {}
        last |= rate_metrics(arm, plan) if plan.study == "rate-sweep" else {}
        steps = plan.steps(arm)
        return Result(status="done", steps=steps, accuracy=accuracy, test_loss=test_loss, metrics=last, seconds=1.0)
    if isinstance(arm.probe, GradientErrors):
        return Result(status="done", steps=0, metrics=_gradient_errors(arm.probe, noise), seconds=1.0)
    if isinstance(arm.probe, Escape):
        walked = 200.0 + 25.0 * math.log(arm.recipe.batch_size) + noise.random()
        return Result(status="done", steps=0, metrics={"left": 1.0, "steps": walked}, seconds=1.0)
    if isinstance(arm.probe, QuadraticSteps):
        least, critical = (300.0, 18_000.0) if arm.name.startswith("momentum") else (6000.0, 900.0)
        walked = (least + 20.0 * noise.random()) * (
            1.0 + (0.0 if arm.probe.exact else critical / arm.recipe.batch_size)
        )
        return Result(status="done", steps=0, metrics={"steps": walked, "lr": 1.0}, seconds=1.0)
    if isinstance(arm.probe, Cuts | StepTimes | KeptImages):
        return Result(status="done", steps=0, metrics=_hardware(arm.probe, noise), seconds=1.0)
    if isinstance(arm.probe, Bagging):
        shares = {"last": 1.0, "averaged": 0.9, "long": 0.95, "bootstrap": 1.3, "ensemble": 0.3}
        scatter = {f"variance:{kind}": 0.1 * share * (1 + 0.1 * noise.random()) for kind, share in shares.items()}
        hits = {f"accuracy:{kind}": 95.0 + noise.random() for kind in shares}
        return Result(status="done", steps=0, metrics=scatter | hits, seconds=1.0)
    if isinstance(arm.probe, ToTarget):
        size, count = arm.recipe.batch_size, math.exp(noise.gauss(0, 0.05))
        count *= 60.0 * (1.0 + 50.0 / size)
        metrics = {"steps": count, "examples": count * size, "lr": 0.01 * math.sqrt(size), "missed": 0.0}
        return Result(status="done", steps=0, metrics=metrics, seconds=1.0)
    if isinstance(arm.probe, Throughput) and plan.study == "small-batches":
        seconds = {size: 1e-3 + 1e-5 * size for size in arm.probe.batch_sizes}
        metrics = {f"examples_per_second:{size}": size / each for size, each in seconds.items()}
        return Result(status="done", steps=0, metrics={**metrics, "ratio": 10.0, "gpu": 0.0}, seconds=1.0)
    metrics = {"slope": 2.0, "relative": 0.1, "tail_weight": 1.6, "growth": 0.3, "growth_orders": 0.2} | {
        "distance": 1.8 + 0.1 * noise.random(),
        "distance_orders": 2.0,
        **_forgetting(noise),
    }
    metrics |= {"exponent": 1.0, "correlation": 0.0, "expected_correlation": 0.0, "ratio": 1.1 + 0.1 * noise.random()}
    metrics |= {"gpu": 0.0, "examples_per_second:32": 1000.0, "examples_per_second:128": 1100.0}
    for label in ("0-1", "1-10", "10-100"):
        metrics |= {f"alpha:{label}": 2.0 + 0.1 * noise.random(), f"taylor_ratio:{label}": 1.0}
    for place in ("0", "0.1", "1"):
        metrics |= {f"trace@{place}": 1.0 + 0.1 * noise.random(), f"mean_square@{place}": 1.0 + 0.1 * noise.random()}
    return Result(status="done", steps=0, metrics=metrics, seconds=1.0)


def _gradient_errors(probe: GradientErrors, noise: random.Random) -> dict[str, float]:
    """Errors as the formula has them for 1,024 examples and a noise scale of 100, and cosines that fall."""
    found: dict[str, float] = {}
    for place in probe.after:
        numbers = {"noise_scale": 100.0, "epoch": 20.0 * place}
        for size in probe.batch_sizes:
            numbers[f"relative_error:{size}"] = math.sqrt(100 / size - 100 / 1024) * math.exp(noise.gauss(0, 0.05))
        if probe.batch_sizes:
            numbers |= {"exponent": -0.5, "raw_exponent": -0.55, "error_ratio": 1.0 + 0.01 * noise.random()}
        for name in ("sample_cosine", "sample_agreement", "batch_cosine", "batch_agreement"):
            numbers |= {f"{name}_expected": 0.5 - 0.4 * place, name: 0.5 - 0.4 * place + noise.gauss(0, 0.01)}
        found |= {f"{name}@{place:g}": value for name, value in numbers.items()}
    return found


def _hardware(probe: Cuts | StepTimes | KeptImages, noise: random.Random) -> dict[str, float]:
    """Cuts change nothing, a micro-batch takes 0.1 ms and 1 microsecond an example."""
    match probe:
        case Cuts(micro_batch_sizes=sizes):
            accuracy = 97.0 + noise.random()
            kinds = {"apart": 1e-14, "accuracy": accuracy, "kept": 1e4}
            return {f"{kind}:{size}": value for kind, value in kinds.items() for size in sizes}
        case StepTimes(pairs=pairs):
            slower = 1.0 + 0.1 * noise.random()
            times = {(size, micro): slower * (0.1 * size / micro + 0.001 * size) for size, micro in pairs}
            found = {f"milliseconds:{size}:{micro}": value for (size, micro), value in times.items()}
            return found | {"fixed": 0.1 * slower, "per_example": 0.001 * slower, "misfit": 0.01}
        case KeptImages():
            return {"images": 3.0, "numbers": 15_245_800.0, "kept_megabytes": 73.3, "kept_integer_megabytes": 12.2}


def _forgetting(noise: random.Random) -> dict[str, float]:
    numbers = {
        "tau": 0.3,
        "tau_low": 0.25,
        "tau_high": 0.4,
        "forgotten": 0.5,
        "newest_loss": 0.4,
        "limit_loss": 0.6,
        "unseen_loss": 0.55,
    }
    modes = ("", ":batch_statistics")
    found = {f"{name}{mode}": value + 0.1 * noise.random() for name, value in numbers.items() for mode in modes}
    for kind in ("replay", "online", "fresh", "plain", "batch_statistics"):
        for place in range(40):
            age = 0.05 + 0.1 * place
            found[f"{kind}@{age:.2f}"] = 0.6 - 0.2 * math.exp(-age / 0.3) + 0.01 * noise.random()
    return found
