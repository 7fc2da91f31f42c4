"""Is a run that changes its batch size in the middle better off with its state carried over, kept, or thrown away?

    python benchmarks/carry_over.py [--seeds 20] [--output results/benchmarks/carry-over.json]

`digits/mlp-plain`, 20 epochs with a cosine, AdamW with torch's numbers at batch 16, not tuned; by the default transfer
at batch 128. After half of the run the batch size changes, up or down, and with it the numbers; the optimizer's state
is `carried` (no noise scale: noise dominates), `carried+noise` (the noise scale of all training examples at that
moment), `kept` as it is, or `reset`. The twin is the run that goes on at the old batch size. SGD with momentum has
nothing to carry that is not kept: `carried` and `reset` alone.

An arm's distance from the twin is |ln(training loss / the twin's)|: after every eighth of the first epoch after the
change, averaged (`soon`), and after the last step (`end`). Written before the first run, for each way of AdamW, over
seeds that draw data, weights and order:

* C1 and C2: carried is nearer to the twin than kept and than reset, soon.
* C3 and C4: the same at the end.
* C5: with the noise scale it is nearer than without, soon.

For SGD C2 and C4. Confirmed where the interval of the paired mean difference lies above 0, refuted where below, else
undecided; 95 %, Holm over all claims of all ways. Twenty seeds see two thirds of a standard deviation at 95 %, one
whole at the strictest of Holm's levels.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from rebatch import (
    AdamW,
    Cosine,
    Epochs,
    Recipe,
    Sgd,
    apply_recipe,
    build_optimizer,
    build_scheduler,
    carry_over,
    draws,
    transfer,
)
from rebatch.data.sets import DataSet
from rebatch.recipe import Optimizer
from rebatch.rules.move import Facts
from rebatch.statistics import holm_levels, paired_contrast
from rebatch.study.environment import environment
from rebatch.tasks import TASKS

TASK, EPOCHS, SMALL, LARGE, LOOKS = TASKS["digits/mlp-plain"], 20, 16, 128, 8
NUMBERS: dict[str, Optimizer] = {"adamw": AdamW(lr=1e-3), "sgd": Sgd(lr=0.01, momentum=0.9)}
ARMS = {"adamw": ("carried", "carried+noise", "kept", "reset"), "sgd": ("carried", "reset")}
CLAIMS = {
    "C1": ("kept", "carried", "soon"),
    "C2": ("reset", "carried", "soon"),
    "C3": ("kept", "carried", "end"),
    "C4": ("reset", "carried", "end"),
    "C5": ("carried", "carried+noise", "soon"),
}
Live = tuple[nn.Module, torch.optim.Optimizer, LRScheduler]


def recipes(kind: str, way: str) -> tuple[Recipe, Recipe]:
    """(before, after) the change."""
    tuned = Recipe(batch_size=SMALL, optimizer=NUMBERS[kind], schedule=Cosine(), budget=Epochs(EPOCHS))
    moved = transfer(tuned, batch_size=LARGE, examples=TASK.train).recipe
    return (tuned, moved) if way == "up" else (moved, tuned)


def start(recipe: Recipe, seed: int) -> Live:
    model = TASK.model(seed)
    optimizer = build_optimizer(recipe, model)
    return model, optimizer, build_scheduler(recipe, optimizer, examples=TASK.train)


def train(live: Live, data: DataSet, batch_size: int, seed: int, epochs: range) -> Iterator[float]:
    """Training losses after each eighth of an epoch."""
    model, optimizer, scheduler = live
    every = max(1, TASK.train // batch_size // LOOKS)
    for epoch in epochs:
        order = torch.from_numpy(draws.order(seed, epoch, TASK.train))
        for step, batch in enumerate(torch.split(order, batch_size), 1):
            optimizer.zero_grad()
            cross_entropy(model(data.inputs[batch]), data.targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            if step % every == 0:
                yield loss_of(model, data)


@torch.no_grad()
def loss_of(model: nn.Module, data: DataSet) -> float:
    return cross_entropy(model(data.inputs).double(), data.targets).item()


def noise_scale(model: nn.Module, data: DataSet) -> float:
    """tr(Sigma)/|G|^2 over all training examples, exactly."""
    squares, total = 0.0, [torch.zeros_like(weight) for weight in model.parameters()]
    for example in range(len(data)):
        loss = cross_entropy(model(data.inputs[example : example + 1]), data.targets[example : example + 1])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        squares += sum(part.square().sum().item() for part in gradient)
        torch._foreach_add_(total, list(gradient))
    square = sum(part.double().square().sum().item() for part in total) / len(data) ** 2
    return (squares / len(data) - square) / square


def switched(live: Live, arm: str, before: Recipe, after: Recipe, noise: float) -> Live:
    """A copy that goes on at the other batch size."""
    model = deepcopy(live[0])
    optimizer = build_optimizer(before, model)
    if arm != "reset":
        optimizer.load_state_dict(deepcopy(live[1].state_dict()))
    for group in optimizer.param_groups:  # before the schedule, which starts anew in the middle
        group.pop("initial_lr", None)
        group["lr"] = before.optimizer.lr
    if arm.startswith("carried"):
        facts = Facts(noise_scale=noise) if arm.endswith("noise") else None
        carry_over(optimizer, before, after, facts=facts, examples=TASK.train)
    apply_recipe(after, optimizer)
    return model, optimizer, build_scheduler(after, optimizer, examples=TASK.train, progress=0.5)


def one_seed(kind: str, way: str, seed: int) -> dict[str, Any]:
    before, after = recipes(kind, way)
    data = TASK.data(seed=seed).train
    first, second = range(EPOCHS // 2), range(EPOCHS // 2, EPOCHS)
    live = start(before, seed)
    for _ in train(live, data, before.batch_size, seed, first):
        pass
    noise = noise_scale(live[0], data)
    runs = {arm: switched(live, arm, before, after, noise) for arm in ARMS[kind]}
    losses = {arm: list(train(run, data, after.batch_size, seed, second)) for arm, run in runs.items()}
    losses["twin"] = list(train(live, data, before.batch_size, seed, second))
    return {"seed": seed, "noise_scale": noise, "losses": losses}


def distances(found: dict[str, Any], arm: str) -> dict[str, float]:
    apart = [abs(math.log(a / b)) for a, b in zip(found["losses"][arm], found["losses"]["twin"], strict=True)]
    return {"soon": sum(apart[:LOOKS]) / LOOKS, "end": apart[-1]}


def judge(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    contrasts = {}
    for case, seeds in found.items():
        for claim, (worse, better, when) in CLAIMS.items():
            if {worse, better} <= seeds[0]["losses"].keys():
                difference = [distances(seed, worse)[when] - distances(seed, better)[when] for seed in seeds]
                contrasts[f"{case} {claim}"] = paired_contrast(difference)
    levels = holm_levels([2 * min(each.p_above(0.0), each.p_below(0.0)) for each in contrasts.values()])
    return [
        {
            "claim": name,
            "effect": [effect.estimate, effect.low, effect.high],
            "verdict": verdict(effect.low, effect.high),
        }
        for (name, contrast), level in zip(contrasts.items(), levels, strict=True)
        for effect in [contrast.interval(1.0 - level)]
    ]


def verdict(low: float, high: float) -> str:
    return "confirmed" if low > 0 else "refuted" if high < 0 else "undecided"


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, the losses' by their logarithm."""
    arms = seeds[0]["losses"].keys()
    table: dict[str, Any] = {"noise_scale": statistics.median(seed["noise_scale"] for seed in seeds)}
    for arm in arms:
        ends = [math.log(seed["losses"][arm][-1]) for seed in seeds]
        signed = [
            statistics.mean(
                math.log(a / b)
                for a, b in zip(seed["losses"][arm][:LOOKS], seed["losses"]["twin"][:LOOKS], strict=True)
            )
            for seed in seeds
        ]
        table[arm] = {
            "soon": statistics.mean(distances(seed, arm)["soon"] for seed in seeds),
            "end": statistics.mean(distances(seed, arm)["end"] for seed in seeds),
            "ln_ratio_soon": statistics.mean(signed),
            "loss_at_the_end": math.exp(statistics.mean(ends)),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        f"{kind} {way}": [one_seed(kind, way, seed) for seed in range(asked.seeds)]
        for kind in NUMBERS
        for way in ("up", "down")
    }
    kept = {
        "seeds": asked.seeds,
        "claims": judge(found),
        "arms": {case: summary(seeds) for case, seeds in found.items()},
        "command": f"python benchmarks/carry_over.py --seeds {asked.seeds}",
        "environment": environment(),
    }
    print(json.dumps(kept, indent=2))
    if asked.output:
        asked.output.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
