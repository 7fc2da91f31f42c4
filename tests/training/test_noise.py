"""Noise on losses and labels: what it draws, and that it leaves the laws of training alone."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import Recipe, draws
from rebatch.data.sets import DataSet, Splits
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.nn import convert_ghost_batch_norm
from rebatch.recipe import Defects, Noise
from rebatch.schedule import Constant
from rebatch.training import train
from rebatch.training.noise import StepNoise
from rebatch.transfer import transfer
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import assert_same_rows, by_hand, run, stopped_and_resumed

BOTH = Noise(multiplicative=1.5, labels=0.3)
NOISES = {"multiplicative": Noise(multiplicative=1.5), "labels": Noise(labels=0.3), "both": BOTH}
EXAMPLES = 1009


def step_noise(noise: Noise, *, seed: int = 1, recipe: Recipe = RECIPE, classes: int = 3) -> StepNoise:
    recipe = recipe.replace(noise=noise)
    return StepNoise(recipe, seed=seed, examples=EXAMPLES, classes=classes, device=torch.device("cpu"))


def factors(noise: StepNoise, epoch: int, indices: Tensor | None = None) -> Tensor:
    found = noise.weights(epoch, torch.arange(EXAMPLES) if indices is None else indices)
    assert found is not None
    return found


def z_of_mean(values: Tensor, expected: float) -> float:
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


@pytest.mark.parametrize("micro_batch_size", [4, 12])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_micro_batch_size_does_not_change_a_noisy_run(noise: Noise, micro_batch_size: int) -> None:
    recipe = RECIPE.replace(noise=noise)
    rows, weights = run(recipe)
    cut_rows, cut_weights = run(recipe, micro_batch_size=micro_batch_size)
    assert_same_rows(cut_rows, rows, rtol=1e-10)
    assert_same_state(cut_weights, weights, rtol=1e-10)
    assert abs(run()[0][-1]["train_loss"] - rows[-1]["train_loss"]) > 1e-3  # the noise is there


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_noisy_run_equals_a_hand_written_one_that_weighs_each_example(noise: Noise) -> None:
    recipe = RECIPE.replace(noise=noise, schedule=Constant(), max_grad_norm=None)
    data, seen = toy_splits().train, []

    def noisy_loss(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
        labels = data.targets.clone()
        rng = draws.generator(1, "label_noise", epoch)
        chances, drawn = rng.random(37), rng.integers(0, 3, 37)
        for example in range(37):
            if chances[example] < noise.labels:
                labels[example] = int(drawn[example])
        normal = draws.generator(1, "multiplicative_noise", epoch).standard_normal(37)
        losses = F.cross_entropy(model(data.inputs[chosen]), labels[chosen], reduction="none")
        seen.append(losses.mean().item())
        z = [1 + noise.multiplicative * normal[example] for example in chosen.tolist()]
        return torch.stack([z_n * loss for z_n, loss in zip(z, losses, strict=True)]).mean()

    model = convert_ghost_batch_norm(toy_model(), 4)
    by_hand(recipe, model, loss=noisy_loss)
    rows, weights = run(recipe)
    assert_same_state(weights, state_of(model), rtol=1e-10)
    assert rows[0]["train_loss"] == pytest.approx(seen[0], rel=1e-10)  # what is logged is not weighted


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_logged_loss_is_the_unweighted_one_to_the_last_bit(precision: Any) -> None:
    execution = Execution(precision=precision)
    first = []
    for noise in (Noise(), Noise(multiplicative=1.5)):
        model, data = toy_model().float(), toy_splits()
        train_, validation, test = (
            DataSet(part.inputs.float(), part.targets) for part in (data.train, data.validation, data.test)
        )
        recipe = RECIPE.replace(noise=noise)
        first.append(
            next(train(model, Splits(train_, validation, test), recipe, seed=1, execution=execution))["train_loss"]
        )
    assert first[0] == first[1]


def test_factors_are_normal_with_mean_one_and_sigma_and_independent_over_epochs_and_examples() -> None:
    sigma = 5.57
    noise = step_noise(Noise(multiplicative=sigma))
    z = (torch.stack([factors(noise, epoch) for epoch in range(200)]) - 1) / sigma
    values = z.flatten()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert abs(z_of_mean(values**power, moment)) < 4
    assert abs(z_of_mean((z[1:] * z[:-1]).flatten(), 0.0)) < 4
    assert abs(z_of_mean((z[:, 1:] * z[:, :-1]).flatten(), 0.0)) < 4
    negative = (values < -1 / sigma).double()  # z < 0: the reference says 43 % at 4096 / 128
    assert abs(z_of_mean(negative, 0.4288)) < 4


def test_an_example_has_its_draws_whatever_the_batch() -> None:
    noise, other = step_noise(BOTH), step_noise(BOTH, recipe=RECIPE.replace(batch_size=32))
    everything, targets = torch.arange(EXAMPLES), torch.zeros(EXAMPLES, dtype=torch.int64)
    some = torch.tensor([1000, 2, 501, 3])
    for epoch in (0, 3, 1):
        assert torch.equal(factors(noise, epoch)[some], factors(other, epoch, some))
        labels = noise.labels(epoch, everything, targets)
        assert torch.equal(labels[some], other.labels(epoch, some, targets[some]))
        # Each kind of noise has draws of its own: one does not move when the other comes in.
        assert torch.equal(factors(step_noise(Noise(multiplicative=1.5)), epoch), factors(noise, epoch))
        assert torch.equal(step_noise(Noise(labels=0.3)).labels(epoch, everything, targets), labels)
    assert not torch.equal(factors(noise, 0), factors(noise, 1))
    assert not torch.equal(factors(noise, 0), factors(step_noise(BOTH, seed=2), 0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_labels_are_replaced_with_the_given_chance_by_all_classes_evenly(dtype: torch.dtype) -> None:
    share, classes = 0.4, 7
    noise = step_noise(Noise(labels=share), classes=classes)
    everything, targets = torch.arange(EXAMPLES), torch.full((EXAMPLES,), 2, dtype=dtype)
    assert noise.weights(0, everything) is None
    drawn = torch.stack([noise.labels(epoch, everything, targets) for epoch in range(100)])
    assert drawn.dtype == dtype
    for label in range(classes):  # a drawn label may be the example's own
        expected = share / classes + (1 - share) * (label == 2)
        assert abs(z_of_mean((drawn == label).double().flatten(), expected)) < 4
    assert int(drawn.max()) == classes - 1


def test_the_noise_that_the_rule_sets_gives_the_large_batch_the_small_ones_covariance() -> None:
    """Fixed gradients of mean zero: E |g_hat|^2 is the trace of the covariance of the mean gradient of a batch.

    Batches are drawn without replacement, so both sides are (N - B) / (N - 1) off from C / B, the large one a little
    less: by 0.03 % here, far under the error of the Monte Carlo.
    """
    small, kappa, epochs = 5, 7, 4000
    large = kappa * small
    tuned = RECIPE.replace(batch_size=small, ghost_batch_size=None)
    recipe = transfer(tuned, batch_size=large, rules="matching_noise").recipe
    assert recipe.noise.multiplicative == pytest.approx(math.sqrt(kappa - 1), rel=1e-12)
    rng = np.random.default_rng(0)
    gradients = torch.from_numpy(rng.gamma(1.0, size=(EXAMPLES, 2)) @ np.array([[1.0, 2.0], [0.0, 0.5]]))
    gradients -= gradients.mean(0)
    noise = StepNoise(recipe, seed=1, examples=EXAMPLES, classes=3, device=torch.device("cpu"))
    noisy, plain = [], []
    for epoch in range(epochs):
        chosen = torch.from_numpy(rng.choice(EXAMPLES, large, replace=False, shuffle=False))
        noisy.append(factors(noise, epoch, chosen) @ gradients[chosen] / large)
        plain.append(gradients[chosen].mean(0))
    found, without = torch.stack(noisy), torch.stack(plain)
    covariance = gradients.T @ gradients / EXAMPLES / small * (EXAMPLES - small) / (EXAMPLES - 1)
    for row, column in ((0, 0), (0, 1), (1, 1)):
        assert abs(z_of_mean(found[:, row] * found[:, column], float(covariance[row, column]))) < 4
        assert abs(z_of_mean(without[:, row] * without[:, column], float(covariance[row, column]))) > 10
    for column in (0, 1):
        assert abs(z_of_mean(found[:, column], 0.0)) < 4


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_noisy_run_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    recipe = RECIPE.replace(noise=Noise(multiplicative=1.5, labels=0.3, dropout=0.2, dropconnect=0.1))
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


WEIGHTLESS = {
    "function": own_loss,
    "torch's own, whose third argument weighs classes": partial(F.cross_entropy, reduction="sum"),
    "module": nn.CrossEntropyLoss(reduction="sum"),
}
WEIGHING = {
    "noise.multiplicative": RECIPE.replace(noise=Noise(multiplicative=1.0)),
    'defects.ghost_split = "chunks"': RECIPE.replace(defects=Defects(ghost_split="chunks")),
}


@pytest.mark.parametrize("loss", WEIGHTLESS.values(), ids=WEIGHTLESS)
@pytest.mark.parametrize("field", WEIGHING)
def test_a_loss_that_takes_no_weights_is_refused_in_one_line_where_examples_weigh(field: str, loss: Any) -> None:
    with pytest.raises(RequestError) as caught:
        run(WEIGHING[field], loss=loss)
    message = str(caught.value)
    assert message.startswith(f"{field} weighs examples, and the loss ")
    assert message.endswith(
        f"give it an argument `weights` (B,), as rebatch.training.cross_entropy has, or leave {field} out"
    )
    assert "\n" not in message


@pytest.mark.parametrize("loss", WEIGHTLESS.values(), ids=WEIGHTLESS)
def test_a_loss_that_takes_no_weights_will_do_for_all_other_recipes(loss: Any) -> None:
    no_ghosts = WEIGHING['defects.ghost_split = "chunks"'].replace(ghost_batch_size=None)
    for recipe in (RECIPE, RECIPE.replace(noise=Noise(labels=0.3)), no_ghosts):
        assert_same_state(run(recipe, loss=loss)[1], run(recipe)[1], rtol=1e-12)


def test_a_loss_of_ones_own_with_weights_is_given_them() -> None:
    def squared(outputs: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
        losses = (outputs - F.one_hot(targets, 3)).square().sum(1)
        return (losses if weights is None else losses * weights).sum()

    recipe = RECIPE.replace(noise=BOTH)
    rows, weights = run(recipe, loss=squared)
    cut_rows, cut_weights = run(recipe, loss=squared, micro_batch_size=4)
    assert_same_rows(cut_rows, rows, rtol=1e-10)
    assert_same_state(cut_weights, weights, rtol=1e-10)


def test_noise_on_labels_is_refused_where_there_are_none() -> None:
    data = toy_splits()

    def splits(targets: Tensor) -> Splits:
        return Splits(DataSet(data.train.inputs, targets), data.validation, data.test)

    recipe = RECIPE.replace(noise=Noise(labels=0.1))
    message = r"noise.labels needs one label \(a whole number\) per example, got targets {}; leave it out"
    with pytest.raises(RequestError, match=message.format("not whole numbers")):
        next(train(toy_model(), splits(data.train.inputs), recipe, seed=1, execution=FLOAT64))
    per_position = torch.zeros(37, 2, dtype=torch.int64)
    with pytest.raises(RequestError, match=message.format(r"of shape \[16, 2\]")):
        next(train(toy_model(), splits(per_position), recipe, seed=1, execution=FLOAT64))
