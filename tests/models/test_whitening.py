"""Whitened patches are white; the filters do not depend on chance; a frozen layer stays frozen."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.work import images
from rebatch.errors import RequestError
from rebatch.models.whitening import EPS, EXAMPLES, Whitening, whiten, whitening_filters
from rebatch.optimizers import build_optimizer
from rebatch.recipe import Epochs, Recipe, Sgd

DECAYING = Recipe(batch_size=32, optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=0.1), budget=Epochs(1))


def correlated(examples: int, channels: int = 3, height: int = 7, width: int = 5) -> Tensor:
    """Images in float64 whose neighbors and channels resemble each other, as those of photographs do."""
    numbers = torch.Generator().manual_seed(0)
    noise = torch.randn(examples, channels, height + 2, width + 2, dtype=torch.float64, generator=numbers)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1) + 0.1 * noise[:, :, 1:-1, 1:-1]
    return smooth + 0.5 * smooth.mean(1, keepdim=True)


def patches(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Every patch of every image as a row: channels, then rows, then columns."""
    _, _, height, width = x.shape
    rows = [
        image[:, top : top + size, left : left + size].ravel()
        for image in x
        for top in range(height - size + 1)
        for left in range(width - size + 1)
    ]
    return np.array(rows)


@pytest.mark.parametrize(("size", "eps"), [(2, 0.0), (2, EPS), (3, 0.0), (1, 0.1)])
def test_outputs_on_the_patches_are_white(size: int, eps: float) -> None:
    x = correlated(53)
    filters = whitening_filters(x, size, eps=eps)
    count = 3 * size * size
    assert filters.shape == (2 * count, 3, size, size)
    torch.testing.assert_close(filters[count:], -filters[:count], rtol=0, atol=0)
    rows = patches(x.numpy(), size)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]
    outputs = rows @ filters[:count].reshape(count, -1).numpy().T
    # The same algebra in another order; eigenvectors are as exact as float64 times the spread of eigenvalues.
    expected = np.diag(eigenvalues / (eigenvalues + eps))
    np.testing.assert_allclose(outputs.T @ outputs / len(rows), expected, rtol=0, atol=1e-10)


def test_the_layer_computes_these_outputs() -> None:
    x = correlated(53)
    layer = whiten(Whitening(3, 2, train_bias=False).double(), x)
    rows = patches(x.numpy(), 2) @ layer.weight.reshape(24, -1).numpy().T
    outputs = layer(x).permute(0, 2, 3, 1).reshape(-1, 24)
    np.testing.assert_allclose(outputs.numpy(), rows, rtol=1e-10, atol=1e-10)


def test_signs_do_not_depend_on_chance() -> None:
    """Other images of the same kind, another order, another precision: the same filters, but for noise."""
    x = correlated(2003)
    filters = whitening_filters(x)
    torch.testing.assert_close(whitening_filters(x.flip(0)), filters, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whitening_filters(x.float()), filters.float(), rtol=1e-3, atol=1e-3)
    for rows in filters[:12].flatten(1):
        first = next(entry for entry in rows if entry.abs() >= 0.75 * rows.abs().max())
        assert first > 0


def test_large_eigenvalues_come_first() -> None:
    x = correlated(53)
    outputs = torch.nn.functional.conv2d(x, whitening_filters(x, eps=1.0)[:12])
    squares = outputs.square().mean((0, 2, 3))
    assert (squares.diff() < 0).all()


def test_only_the_first_training_images_count() -> None:
    x = images(EXAMPLES + 3, side=2)
    torch.testing.assert_close(whiten(Whitening(train_bias=False).double(), x).weight, whitening_filters(x[:EXAMPLES]))


@pytest.mark.parametrize("train_bias", [False, True])
def test_filters_are_frozen_and_not_the_optimizers(train_bias: bool) -> None:
    x = correlated(53)
    layer = Whitening(train_bias=train_bias)
    model = whiten(nn.Sequential(layer, nn.Flatten(), nn.Linear(24 * 6 * 4, 2)).double(), x)
    before = layer.weight.clone()
    optimizer = build_optimizer(DECAYING, model)
    model(x).square().sum().backward()
    optimizer.step()
    assert layer.weight.grad is None
    assert (layer.weight == before).all()
    assert bool((layer.bias != 0).all()) == train_bias
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(layer.weight) not in owned
    assert (id(layer.bias) in owned) == train_bias


def test_a_bias_frozen_later_stays_as_it_is() -> None:
    """What airbench does after three epochs: neither gradient nor decay nor momentum moves it any more."""
    x = correlated(53)
    layer = whiten(Whitening(train_bias=True).double(), x)
    optimizer = build_optimizer(DECAYING, layer)
    layer(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = layer.bias.requires_grad_(False).clone()
    optimizer.step()
    assert (before != 0).all()
    assert (layer.bias == before).all()


def test_a_layer_that_was_not_whitened_gives_no_numbers() -> None:
    layer = Whitening(train_bias=False)
    assert layer(torch.ones(1, 3, 2, 2)).isnan().all()
    other = whiten(Whitening(train_bias=False), images(7).float())
    layer.load_state_dict(other.state_dict())
    assert layer(torch.ones(1, 3, 2, 2)).isfinite().all()


def test_dtype_and_memory_format_stay() -> None:
    layer = Whitening(train_bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whiten(layer, images(7))
    assert layer.weight.dtype == torch.float32
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_without_the_layer_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot whiten a Linear without a Whitening layer; begin the model with"):
        whiten(nn.Linear(2, 3), images(7))


def test_images_of_another_kind_are_refused() -> None:
    layer = Whitening(train_bias=False)
    with pytest.raises(RequestError, match="takes 3 channels, the images have 5"):
        whiten(layer, torch.zeros(2, 5, 7, 7))
    with pytest.raises(RequestError, match=r"floating-point images .* got torch.uint8 of shape \(2, 3, 7, 7\)"):
        whiten(layer, torch.zeros(2, 3, 7, 7, dtype=torch.uint8))
    for shape in [(3, 7, 7), (0, 3, 7, 7), (2, 3, 1, 7)]:
        with pytest.raises(RequestError, match="of a side of at least 2"):
            whiten(layer, torch.zeros(shape))
