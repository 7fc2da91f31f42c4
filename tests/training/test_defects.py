"""The defects of the paper's released code, each against what that code does, written by hand."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import AdamW, Recipe
from rebatch.errors import RequestError
from rebatch.nn import GhostBatchNorm1d, draw_batch_norm_scale
from rebatch.recipe import BIGBATCH, Adagrad, Defects, Epochs, Optimizer, RmsProp
from rebatch.schedule import Constant
from rebatch.training.noise import StepNoise
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import by_hand, run, sgd, stopped_and_resumed

PLAIN = RECIPE.replace(ghost_batch_size=None, schedule=Constant(), max_grad_norm=None, budget=Epochs(5))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_momentum_is_lost_as_if_the_optimizer_were_built_anew_every_so_many_epochs(every: int) -> None:
    recipe = PLAIN.replace(defects=Defects(reset_momentum_epochs=every))
    model, built = toy_model(), []

    def rebuild(step: int, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        epoch, position = divmod(step, 3)  # 37 examples in batches of 16
        if position > 0 or epoch % every > 0:
            return optimizer
        built.append(epoch)
        return sgd(recipe, model)

    by_hand(recipe, model, epochs=5, start=rebuild)
    assert built == list(range(0, 5, every))
    assert_same_state(run(recipe)[1], state_of(model))
    with pytest.raises(AssertionError, match="differs"):
        assert_same_state(run(PLAIN)[1], state_of(model), rtol=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [AdamW(lr=0.01, eps=1e-4), RmsProp(lr=0.01, eps=1e-4), Adagrad(lr=0.1, eps=1e-4)],
    ids=["adamw", "rmsprop", "adagrad"],
)
def test_other_optimizers_lose_their_state_too(optimizer: Optimizer) -> None:
    kept = PLAIN.replace(optimizer=optimizer)
    lost = kept.replace(defects=Defects(reset_momentum_epochs=1))
    assert run(lost.replace(budget=Epochs(1)))[0] == run(kept.replace(budget=Epochs(1)))[0]
    assert run(lost)[0] != run(kept)[0]


@pytest.mark.parametrize(
    ("batch_size", "ghost", "sizes"),
    [
        (16, 5, [[6, 6, 4], [6, 6, 4], [2, 3]]),  # torch.chunk cuts 2, 2, 1: the one joins its neighbour
        (14, 4, [[5, 5, 4], [5, 5, 4], [3, 3, 3]]),  # 14 // 4 = 3 ghosts
        (11, 3, [[4, 4, 3], [4, 4, 3], [4, 4, 3], [2, 2]]),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_chunks_are_ghosts_that_weigh_the_same_however_small(
    batch_size: int, ghost: int, sizes: list[list[int]], reduction: Any
) -> None:
    recipe = PLAIN.replace(
        batch_size=batch_size,
        ghost_batch_size=ghost,
        loss_reduction=reduction,
        defects=Defects(ghost_split="chunks"),
        budget=Epochs(3),
    )
    data, seen, cut = toy_splits().train, [], []

    def mean_of_means(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
        ghosts = list(torch.chunk(chosen, batch_size // ghost))
        if len(ghosts[-1]) == 1:
            ghosts[-2:] = [torch.cat(ghosts[-2:])]
        cut.append([len(each) for each in ghosts])
        losses = [F.cross_entropy(model(data.inputs[each]), data.targets[each]) for each in ghosts]
        seen.append(sum(loss.item() * len(each) for loss, each in zip(losses, ghosts, strict=True)) / len(chosen))
        total = torch.stack(losses).mean()
        return total if reduction == "mean" else total * len(chosen)

    model = toy_model()  # plain batch norm: each ghost is a forward pass, and a step of the running statistics
    by_hand(recipe, model, loss=mean_of_means)
    rows, weights = run(recipe)
    assert cut[: len(sizes)] == sizes
    assert_same_state(weights, state_of(model), rtol=1e-9)
    assert rows[0]["train_loss"] == pytest.approx(seen[0], rel=1e-10)  # every example weighs the same in what is logged


def test_the_partial_batch_of_the_paper_has_31_ghosts_of_27_and_one_of_11_that_all_weigh_the_same() -> None:
    recipe = Recipe(
        batch_size=4096, ghost_batch_size=128, optimizer=PLAIN.optimizer, budget=Epochs(1), defects=BIGBATCH
    )
    noise = StepNoise(recipe, seed=1, examples=50_000, classes=10, device=torch.device("cpu"))
    rest = 50_000 % 4096
    weights = noise.weights(0, torch.arange(rest))
    assert weights is not None
    assert rest == 848
    sizes = [len(ghost) for ghost in torch.chunk(torch.arange(rest), 32)]
    assert sizes == [27] * 31 + [11]
    sums = [ghost.sum().item() for ghost in weights.split(sizes)]  # type: ignore[no-untyped-call]
    assert sums == pytest.approx([rest / 32] * 32, rel=1e-12)
    assert weights[-1] / weights[0] == pytest.approx(27 / 11, rel=1e-12)
    whole = noise.weights(0, torch.arange(4096))
    assert whole is not None
    assert torch.equal(whole, torch.ones(4096, dtype=torch.float64))


def test_chunks_and_noise_multiply() -> None:
    recipe = PLAIN.replace(batch_size=14, ghost_batch_size=4, defects=BIGBATCH)
    noisy = recipe.replace(noise=msgspec.structs.replace(recipe.noise, multiplicative=2.0))
    plain = noisy.replace(defects=Defects())
    chosen = torch.arange(9, 23)
    found, shares, factors = (
        StepNoise(each, seed=1, examples=37, classes=3, device=torch.device("cpu")).weights(0, chosen)
        for each in (noisy, recipe, plain)
    )
    assert found is not None
    assert shares is not None
    assert factors is not None
    assert torch.equal(found, shares * factors)


def test_a_step_with_chunks_is_not_cut() -> None:
    recipe = PLAIN.replace(ghost_batch_size=4, defects=Defects(ghost_split="chunks"))
    with pytest.raises(
        RequestError, match=r'defects.ghost_split = "chunks" cuts ghosts by their number, .* use "size"'
    ):
        run(recipe, micro_batch_size=8)
    run(recipe, micro_batch_size=16)  # cuts nothing
    # Without ghosts there is nothing to split.
    run(recipe.replace(ghost_batch_size=None), toy_model(norm=False), micro_batch_size=8)


def test_a_model_forgets_the_chunks_of_an_earlier_recipe() -> None:
    model = toy_model()
    run(PLAIN.replace(ghost_batch_size=4, defects=Defects(ghost_split="chunks")), model)
    assert isinstance(model[1], GhostBatchNorm1d)
    assert model[1].chunks == 4
    run(PLAIN.replace(ghost_batch_size=4), model)
    assert model[1].chunks is None


def scales(**options: Any) -> list[Tensor]:
    """The scales of two norms before the first step: the learning rate is far too small to move them."""
    recipe = PLAIN.replace(defects=Defects(batch_norm_scale="uniform"), **options.pop("recipe", {})).with_lr(1e-300)
    norms = [nn.BatchNorm1d(7), nn.BatchNorm1d(7, affine=False), nn.BatchNorm1d(7)]
    model = nn.Sequential(nn.Linear(5, 7), *norms, nn.Linear(7, 3)).double()
    before = state_of(model)
    _, after = run(recipe, model, **options)
    for name in ("0.weight", "0.bias", "1.bias", "3.bias", "4.weight", "4.bias"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-100, atol=1e-100)
    assert "2.weight" not in after
    return [after["1.weight"], after["3.weight"]]


def test_the_scale_of_batch_norm_depends_on_the_seed_alone() -> None:
    first = scales()
    torch.manual_seed(99)
    assert all(map(torch.equal, scales(recipe={"ghost_batch_size": 4, "batch_size": 12, "last_batch": "drop"}), first))
    assert not any(map(torch.equal, scales(seed=2), first))
    assert not torch.equal(*first)
    assert all(0 < scale < 1 for scale in torch.cat(first).tolist())


def test_the_scale_of_batch_norm_is_uniform() -> None:
    layer = nn.BatchNorm2d(10_007)
    draw_batch_norm_scale(layer, np.random.default_rng(0))
    scale = layer.weight.detach().double()
    for power, moment in ((1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):
        values = scale**power
        assert abs((values.mean() - moment) / (values.std() / 10_007**0.5)) < 4
    assert layer.bias.abs().max() == 0
    assert layer.weight.requires_grad


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_with_all_defects_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    recipe = PLAIN.replace(ghost_batch_size=4, batch_size=14, defects=BIGBATCH)
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)
