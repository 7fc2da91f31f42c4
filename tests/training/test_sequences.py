"""Batches of sequences: a step's loss is summed over its tokens and divided by their number, however it is cut."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rebatch
from rebatch import draws
from rebatch.data.sets import DataSet, nested_order
from rebatch.measure import NoiseScale
from rebatch.recipe import AdamW, Epochs, Noise, Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.training import Row, cross_entropy, evaluate, train
from rebatch.training.gradients import example_losses
from toy import FLOAT64, assert_same_state, state_of, toy_sequences, toy_transformer
from training.runs import assert_same_rows

RECIPE = Recipe(batch_size=16, optimizer=AdamW(lr=0.01, eps=1e-4), budget=Epochs(3), max_grad_norm=0.5)


def run(recipe: Recipe = RECIPE, **options: Any) -> tuple[list[Row], dict[str, Tensor]]:
    model = toy_transformer()
    rows = list(train(model, toy_sequences(), recipe, **{"seed": 1, "execution": FLOAT64, "evaluations": 3, **options}))
    return rows, state_of(model)


@pytest.mark.parametrize("recipe", [RECIPE, with_loss_reduction(RECIPE, "sum")], ids=["mean", "sum"])
def test_no_cut_of_the_sequences_changes_the_run(recipe: Recipe) -> None:
    whole = run(recipe)
    for micro_batch_size in (1, 3, 7, 11):
        rows, weights = run(recipe, micro_batch_size=micro_batch_size)
        assert_same_rows(rows, whole[0], rtol=1e-10)
        assert_same_state(weights, whole[1], rtol=1e-10)


def test_a_step_divides_the_sum_over_its_tokens_by_their_number() -> None:
    """Against a hand-written loop that counts tokens; the last of three batches has 5 of 16 sequences."""
    data, model = toy_sequences().train, toy_transformer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for chosen in torch.split(torch.from_numpy(draws.order(1, 0, len(data))), 16):
        optimizer.zero_grad()
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        for inputs, targets in zip(data.inputs[chosen], data.targets[chosen], strict=True):
            logits = model(inputs[None])[0]  # (256, 7)
            for place, target in enumerate(targets):
                total, tokens = total - logits[:, place].log_softmax(0)[target], tokens + 1
        (total / tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(total.item() / tokens)
    rows, weights = run(RECIPE.replace(optimizer=Sgd(lr=0.5), budget=Epochs(1), max_grad_norm=None), micro_batch_size=3)
    assert [row["train_loss"] for row in rows] == pytest.approx(losses, rel=1e-10)
    assert [row["tokens"] for row in rows] == [7 * 16, 7 * 32, 7 * 37]
    assert_same_state(weights, state_of(model), rtol=1e-10)


def test_loss_and_accuracy_are_per_token() -> None:
    data, model = toy_sequences().test, toy_transformer()
    found = evaluate(model, data, batch_size=3, execution=FLOAT64)
    with torch.no_grad():
        logits = model(data.inputs)
    assert found.loss == pytest.approx(F.cross_entropy(logits, data.targets).item(), rel=1e-12)
    assert found.correct.shape == (7, 7)
    assert torch.equal(found.correct, logits.argmax(1) == data.targets)
    model.head.weight.data.zero_()
    assert evaluate(model, DataSet(data.inputs, torch.zeros_like(data.targets)), execution=FLOAT64).accuracy == 100.0


def test_weights_of_examples_weigh_whole_sequences() -> None:
    data = toy_sequences().test
    logits, weights = toy_transformer()(data.inputs), torch.arange(7.0, dtype=torch.float64)
    alone = torch.stack([cross_entropy(logits[i : i + 1], data.targets[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(example_losses(logits, data.targets), alone, rtol=1e-12, atol=0)
    found = cross_entropy(logits, data.targets, weights)
    torch.testing.assert_close(found, (alone * weights).sum(), rtol=1e-12, atol=0)


def test_what_sequences_do_not_have_is_refused() -> None:
    ignored = torch.tensor([[1, 2, -100]])
    with pytest.raises(
        ValueError, match=r"targets of sequences must all count, got some below 0 .*; cut whole windows"
    ):
        DataSet(torch.zeros(1, 3), ignored)
    with pytest.raises(rebatch.RequestError, match=r"noise.labels needs one label .* got targets of shape \[16, 7\]"):
        run(RECIPE.replace(noise=Noise(labels=0.1)))


def test_parts_of_a_set_of_sequences_are_nested() -> None:
    order = nested_order(toy_sequences().train.targets)
    assert sorted(order.tolist()) == list(range(37))
    assert order.tolist() != list(range(37))


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_watch_of_a_plain_loop_takes_sequences_as_its_examples(pieces: int) -> None:
    """Steps of 8 at a rate of 0: E|g_B|^2 = |G|^2 + tr(Sigma)/B holds exactly for the batches, and for pieces of 2."""
    data, model, twin = toy_sequences().train, toy_transformer(), toy_transformer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1)])
    size, squares = 8 // pieces, dict[int, list[float]]({2: [], 8: []})
    for start in (0, 8, 16, 24):
        optimizer.zero_grad()
        for first in range(start, start + 8, size):
            (loss_of(model, data, first, first + size) / pieces).backward()  # type: ignore[no-untyped-call]
        watch.step()
        optimizer.step()
        for each, squared in squares.items():
            squared += [square_of(twin, data, first, first + each) for first in range(start, start + 8, each)]
    found: Any = watch.summary()["noise_scale"]
    trace, square = found.trace.estimate, found.square.estimate
    assert square + trace / 8 == pytest.approx(np.mean(squares[8]), rel=1e-10)
    if pieces == 4:
        assert square + trace / 2 == pytest.approx(np.mean(squares[2]), rel=1e-10)


def loss_of(model: nn.Module, data: DataSet, start: int, stop: int) -> Tensor:
    """The mean over tokens, as any loop has it."""
    return F.cross_entropy(model(data.inputs[start:stop]), data.targets[start:stop])


def square_of(model: nn.Module, data: DataSet, start: int, stop: int) -> float:
    """Of the gradient of that loss, its length squared."""
    gradients = torch.autograd.grad(loss_of(model, data, start, stop), list(model.parameters()))
    return sum(gradient.square().sum().item() for gradient in gradients)
