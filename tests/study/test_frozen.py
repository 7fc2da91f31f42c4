"""Weights are frozen where they are asked for on one run, and examples' own gradients are those of backward."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.data.augment import Normalize
from rebatch.data.sets import DataSet, Splits
from rebatch.study import frozen
from rebatch.study.frozen import along, gradient_of, per_example_gradients
from rebatch.training import train
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits


def test_places_are_steps_of_one_run_and_the_model_goes_on_from_each() -> None:
    data = toy_splits()  # 3 steps an epoch, 9 in all
    places = {at.place: at for at in along(toy_model(), data, RECIPE, (1.0, 0.0, 0.4), seed=1, execution=FLOAT64)}
    assert [at.step for at in places.values()] == [0, 4, 9]
    assert_same_state(state_of(places[0.0].model), state_of(toy_model()))
    model = toy_model()
    for row in train(model, data, RECIPE, seed=1, execution=FLOAT64, evaluations=1):
        for at in places.values():
            if at.step == row["step"]:
                assert_same_state(state_of(at.model), state_of(model))
    assert_same_state(state_of(places[1.0].model), state_of(model))


def test_a_run_that_diverged_gives_the_places_after_it_there() -> None:
    data, recipe = toy_splits(), RECIPE.with_lr(1e300).replace(max_grad_norm=None)
    found = list(along(toy_model(norm=False), data, recipe, (0.0, 0.5, 1.0), seed=1, execution=FLOAT64))
    assert [at.place for at in found] == [0.0, 0.5, 1.0]
    assert found[1].step == found[2].step < 9


def images() -> Splits:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (7, 3, 5, 5), generator=generator, dtype=torch.uint8)
    data = DataSet(pixels, torch.arange(7) % 3)
    return Splits(data, data, data, normalize=Normalize((0.5,) * 3, (0.25,) * 3))


def convolutions() -> nn.Module:
    """Batch norm with statistics of its own, and a frozen layer."""
    first, norm = nn.Conv2d(3, 4, 3).requires_grad_(False), nn.BatchNorm2d(4)
    assert norm.running_mean is not None
    norm.running_mean += 0.3
    return nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 3))


@pytest.mark.parametrize("at_once", [1, 2, 32])
def test_gradients_of_single_examples_are_those_of_backward(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "MOST_AT_ONCE", at_once)
    model, data = convolutions().eval(), images()
    before = copy.deepcopy(model.state_dict())
    chosen = torch.tensor([5, 0, 3])
    found = torch.cat(list(per_example_gradients(model, data, chosen)))
    assert_same_state(dict(model.state_dict()), dict(before))
    for row, index in zip(found, chosen, strict=True):
        model.zero_grad()
        image = (data.train.inputs[index][None].float() / 255.0 - 0.5) / 0.25
        F.cross_entropy(model(image), data.train.targets[index][None]).backward()  # type: ignore[no-untyped-call]
        slow = torch.cat([each.grad.reshape(-1) for each in model.parameters() if each.grad is not None])
        torch.testing.assert_close(row, slow, rtol=1e-5, atol=1e-6)


def test_their_mean_is_the_gradient_of_the_batch_where_no_norm_couples_them() -> None:
    data = toy_splits()
    model, chosen = toy_model().eval(), torch.arange(11)
    batch = gradient_of(model, data)(chosen, torch.ones(11))
    mean = torch.cat(list(per_example_gradients(model, data, chosen))).mean(0)
    torch.testing.assert_close(batch, mean, rtol=1e-10, atol=1e-12)


def test_batch_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(AssertionError, match="couples examples"):
        next(per_example_gradients(toy_model(), toy_splits(), torch.arange(3)))


def test_weights_weigh_the_losses() -> None:
    data, model = toy_splits(), toy_model(norm=False)
    gradient = gradient_of(model, replace(data, normalize=None))
    one = torch.stack([gradient(torch.tensor([index]), torch.ones(1)) for index in (4, 9)])

    def weighted(weights: list[float]) -> Tensor:
        return gradient(torch.tensor([4, 9]), torch.tensor(weights))

    torch.testing.assert_close(weighted([2.0, 0.5]), (2.0 * one[0] + 0.5 * one[1]) / 2, rtol=1e-10, atol=1e-12)
