"""What a forward pass keeps and puts out, against counts by hand; VGG-16's against the published number."""

import pytest
import torch
from torch import Tensor, nn

from rebatch.errors import RequestError
from rebatch.measure.kept import kept_by_training, kept_for_backward, numbers_put_out
from rebatch.models.vgg import vgg16

N = 3


def convolutions(*, inplace: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(inplace=inplace), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 9, 7)
    )


def images() -> Tensor:
    return torch.randn(N, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inplace", [False, True])
def test_bytes_kept_are_those_of_inputs_and_outputs_that_backward_needs(inplace: bool) -> None:
    found = kept_by_training(convolutions(inplace=inplace), images())
    # The convolution keeps its input, the ReLU its output, pooling its input (the same) and indices, the linear layer
    # its input: pooling's output.
    numbers = N * (2 * 36 + 5 * 36 + 5 * 9)
    assert found == {torch.float32: 4 * numbers, torch.int64: 8 * N * 5 * 9}


@pytest.mark.parametrize("inplace", [False, True])
def test_numbers_put_out_are_those_of_the_layers_and_the_input(inplace: bool) -> None:
    relu = 0 if inplace else 5 * 36  # in place it writes over the convolution's output; flattening is a view
    model = convolutions(inplace=inplace)
    assert numbers_put_out(model, images()) == N * (2 * 36 + 5 * 36 + relu + 5 * 9 + 7)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_weights_are_not_counted_unless_asked_for() -> None:
    layer, inputs = nn.Linear(5, 7), torch.randn(N, 5, requires_grad=True)
    assert kept_by_training(layer, inputs) == {torch.float32: 4 * N * 5}
    assert kept_for_backward(lambda: layer(inputs)) == {torch.float32: 4 * (N * 5 + 5 * 7)}


def test_a_tensor_that_is_kept_twice_counts_once() -> None:
    numbers = torch.randn(11, requires_grad=True)
    assert kept_for_backward(lambda: (numbers * numbers[:11]).sum()) == {torch.float32: 44}
    assert kept_for_backward(lambda: (numbers * numbers.exp()).sum()) == {torch.float32: 88}


def test_the_gradient_is_what_it_is_without_counting() -> None:
    model, inputs = convolutions(inplace=True), images()
    kept_for_backward(lambda: model(inputs).sum())
    outputs: list[Tensor] = []

    def forward() -> Tensor:
        outputs.append(model(inputs).sum())
        return outputs[0]

    kept_for_backward(forward)
    counted = torch.autograd.grad(outputs[0], list(model.parameters()))
    plain = torch.autograd.grad(model(inputs).sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(counted, plain, strict=True))


def test_nothing_is_kept_without_gradients() -> None:
    with torch.no_grad(), pytest.raises(RequestError, match="the output needs no gradient; ask for one"):
        kept_by_training(convolutions(inplace=True), images())


def test_vgg16_has_its_published_size_and_its_memory_is_counted_without_work() -> None:
    with torch.device("meta"):
        model, inputs = vgg16(), torch.empty(N, 3, 224, 224)
    assert sum(each.numel() for each in model.parameters()) == 138_357_544
    assert numbers_put_out(model, inputs) == N * 15_245_800
    kept = kept_by_training(model, inputs)
    # Pooling: an index for each of its outputs; all else in float32: everything put out but the answer, and dropout's
    # masks.
    pooled = 64 * 112**2 + 128 * 56**2 + 256 * 28**2 + 512 * 14**2 + 512 * 7**2
    assert kept == {torch.float32: 4 * N * (15_245_800 - 1000 + 2 * 4096), torch.int64: 8 * N * pooled}
