"""Rescaled layers around a ReLU are the same function by other weights, with another Hessian."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measure.test_curvature import dense_hessian
from rebatch.errors import RequestError
from rebatch.measure.rescaling import rescalable, rescale_relu
from toy import toy_model, toy_splits

DATA = toy_splits().train


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(DATA.inputs.to(next(model.parameters()).dtype))  # type: ignore[no-any-return]


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize("norm", [False, True])
def test_a_power_of_two_leaves_the_function_as_it_is_to_the_last_bit(norm: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), *([nn.BatchNorm1d(7)] if norm else []), nn.ReLU(), nn.Linear(7, 3))
    model(DATA.inputs.float())  # running statistics of their own
    before, weights = outputs(model), copy.deepcopy(model.state_dict())
    rescale_relu(model, 8.0)
    assert torch.equal(outputs(model), before)
    scaled, left = ("1", "3") if norm else ("0", "2")
    found = model.state_dict()
    assert torch.equal(found[f"{scaled}.weight"], 8.0 * weights[f"{scaled}.weight"])
    assert torch.equal(found[f"{scaled}.bias"], 8.0 * weights[f"{scaled}.bias"])
    assert torch.equal(found[f"{left}.weight"], weights[f"{left}.weight"] / 8.0)
    assert torch.equal(found[f"{left}.bias"], weights[f"{left}.bias"])


def test_the_blocks_of_the_hessian_move_by_the_square_of_the_factor() -> None:
    model = chain().double()
    scaled = copy.deepcopy(model)
    rescale_relu(scaled, 2.0)

    def blocks(net: nn.Sequential) -> tuple[Tensor, Tensor]:
        weights = list(net.parameters())
        hessian = dense_hessian(net, lambda net: F.cross_entropy(net(DATA.inputs), DATA.targets))
        first = weights[0].numel() + weights[1].numel()
        return hessian[:first, :first], hessian[first : first + weights[2].numel(), first : first + weights[2].numel()]

    (first, second), (smaller, larger) = blocks(model), blocks(scaled)
    torch.testing.assert_close(smaller, first / 4.0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(larger, 4.0 * second, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_rescaled_is_said() -> None:
    apart = toy_model(dropout=0.5)  # dropout stands between the ReLU and the next layer
    assert rescalable(chain())
    assert not rescalable(apart)
    assert not rescalable(nn.Linear(5, 3))
    with pytest.raises(RequestError, match="no ReLU of Sequential lies between"):
        rescale_relu(apart, 2.0)
    with pytest.raises(RequestError, match="positive factors through, got -2"):
        rescale_relu(chain(), -2.0)
