"""What each process of `training/test_ranks.py` runs: a module of its own, which spawned processes can import."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rebatch
from rebatch.averaging import Averaging, Ema, Lookahead
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.measure import NoiseScale
from rebatch.nn import convert_ghost_batch_norm
from rebatch.recipe import AdamW, Epochs, GradientPenalty, Recipe
from rebatch.training import Checkpointer, EarlierRun, Row, evaluate, train
from toy import FLOAT64, RECIPE, state_of, toy_model, toy_sequences, toy_splits, toy_transformer

RANKS = 2
CASES: dict[str, dict[str, Any]] = {
    "ghosts": {},
    "mean": {"running": "mean"},
    "micro-batches too": {"micro_batch_size": 4},
    "an idle rank": {"train": 35},  # the last batch of 3 is one ghost: nothing is left for the other rank
    "adamw, summed loss": {"recipe": RECIPE.replace(optimizer=AdamW(lr=0.01, eps=1e-4), loss_reduction="sum")},
    "no norm": {"norm": False},
    "moving average, smoothed labels": {"recipe": RECIPE.replace(averaging=Ema(decay=0.8), label_smoothing=0.2)},
    "sequences": {"model": toy_transformer, "data": toy_sequences, "micro_batch_size": 3},
    "penalty": {"recipe": RECIPE.replace(gradient_penalty=GradientPenalty(strength=0.3, batch_size=8))},
    "lookahead": {"recipe": RECIPE.replace(averaging=Lookahead(decay=0.8, every=2))},
}


def run_case(
    world: World,
    *,
    recipe: Recipe = RECIPE,
    running: Any = "sequential",
    train_examples: int = 37,
    norm: bool = True,
    micro_batch_size: int | None = None,
    model: Callable[[], nn.Module] | None = None,
    data: Callable[[int], Splits] = toy_splits,
) -> tuple[list[Row], dict[str, torch.Tensor], float]:
    network = convert_ghost_batch_norm(toy_model(norm=norm), 4, running=running) if model is None else model()
    splits = data(train_examples)
    recipe = recipe.replace(ghost_batch_size=None)
    rows = train(
        network,
        splits,
        recipe,
        seed=1,
        execution=FLOAT64,
        evaluations=3,
        world=world,
        micro_batch_size=micro_batch_size,
    )
    measured = list(rows)
    test = evaluate(network, splits.test, execution=FLOAT64, world=world)
    assert len(test.correct) == 7
    return measured, state_of(network), test.loss


def options(case: str) -> dict[str, Any]:
    chosen = dict(CASES[case])
    chosen["train_examples"] = chosen.pop("train", 37)
    return chosen


def plain_batch_norm(world: World, averaging: Averaging | None) -> dict[str, torch.Tensor]:
    """Plain batch norm over ranks, as the user allowed: what each rank ends with."""
    model, recipe = toy_model(), RECIPE.replace(ghost_batch_size=None, averaging=averaging)
    list(train(model, toy_splits(), recipe, seed=1, execution=FLOAT64, world=world, allow_batch_norm=True))
    return state_of(model)


def resumed(world: World, folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows of a run with dropout that nobody disturbs, and of one that stops after four rows and resumes."""

    def rows(checkpoint: Checkpointer | None) -> Iterator[Row]:
        model = toy_model(dropout=0.3)
        return train(model, toy_splits(), RECIPE, seed=1, execution=FLOAT64, world=world, checkpoint=checkpoint)

    undisturbed, path = list(rows(None)), folder / "checkpoint.pt"
    first = list(islice(rows(Checkpointer(path, seconds=0.0)), 5))[:4]  # the state after row 4 was saved before row 5
    world.barrier()
    return undisturbed, first + list(rows(Checkpointer(path, seconds=1e9)))


def continued(world: World, folder: Path) -> list[Row]:
    """Rows of a run at batch 8 that goes on from one at batch 16 on one rank, stopped between two of its rows."""
    path, recipe = folder / "alone.pt", RECIPE.replace(budget=Epochs(8))
    options: dict[str, Any] = {"seed": 1, "execution": FLOAT64, "evaluations": 1}
    if world.rank == 0:
        alone = train(toy_model(), toy_splits(), recipe, checkpoint=Checkpointer(path, seconds=0.0), **options)
        assert next(row for row in alone if row["step"] > 8)["step"] == 10
    world.barrier()
    recipes = recipe.replace(batch_size=8), EarlierRun(recipe, path)
    return list(train(toy_model(), toy_splits(), recipes[0], world=world, start_from=recipes[1], **options))


def noise_scale(world: World) -> list[float]:
    """Of a run in pieces of 4 examples: tr(Sigma), |G|^2 and how many steps had several pieces."""
    observer = NoiseScale()
    options: dict[str, Any] = {"execution": FLOAT64, "world": world, "micro_batch_size": 4, "observers": [observer]}
    list(train(toy_model(), toy_splits(), RECIPE, seed=1, **options))
    return numbers(observer.estimate())


def watched(world: World) -> list[float]:
    """A plain loop in two micro-batches of 5 on each rank; alone it does what both ranks do together."""
    data, model = toy_splits().train, toy_model(norm=False)
    several = DistributedDataParallel(model) if world.size > 1 else None
    network = several or model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch = rebatch.watch(network, optimizer, batch_size=20, measure=[NoiseScale()])
    pieces = [torch.arange(start, start + 5) for start in (0, 5, 10, 15)]
    own = pieces[2 * world.rank : 2 * world.rank + 2] if world.size > 1 else pieces
    for step in range(3):
        optimizer.zero_grad()
        for number, piece in enumerate(own):
            with several.no_sync() if several is not None and number == 0 else nullcontext():
                loss = F.cross_entropy(network(data.inputs[piece + step]), data.targets[piece + step])
                (loss / len(own)).backward()  # type: ignore[no-untyped-call]
        watch.step()
        optimizer.step()
    return numbers(watch.summary()["noise_scale"])


def numbers(found: Any) -> list[float]:
    return [found.trace.estimate, found.square.estimate, found.steps]


def rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    world = World(rank, RANKS)
    outcomes = {case: run_case(world, **options(case)) for case in CASES}
    alike = [plain_batch_norm(world, averaging) for averaging in (None, Ema(decay=0.8), Lookahead())]
    rows = resumed(world, folder)
    going_on = continued(world, folder)
    noise = [noise_scale(world), watched(world)]
    gathered = world.gather(torch.full((rank, 2), float(rank)))
    found = {"outcomes": outcomes, "gathered": gathered, "plain": alike, "resumed": rows, "noise": noise}
    torch.save({**found, "continued": going_on}, folder / f"rank{rank}.pt")
    world.close()
