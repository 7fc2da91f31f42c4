"""What an adaptive optimizer divides by, against the step that it then makes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rebatch import RequestError
from rebatch.measure import adam_denominator

Builder = Callable[[list[nn.Parameter]], Optimizer]

# Without momentum a step is lr times the gradient divided by what is looked for, as it stands after the step.
OPTIMIZERS: dict[str, Builder] = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1, betas=(0.0, 0.9), eps=1e-3),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1, betas=(0.0, 0.9), eps=1e-3, weight_decay=0.0),
    "amsgrad": lambda weights: torch.optim.Adam(weights, lr=0.1, betas=(0.0, 0.9), eps=1e-3, amsgrad=True),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.1, eps=1e-3),
    "centered": lambda weights: torch.optim.RMSprop(weights, lr=0.1, eps=1e-3, centered=True),
}


def gradient(step: int) -> Tensor:
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64) / (step + 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_the_gradient_divided_by_it(name: str) -> None:
    frozen, weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([frozen, weight])
    assert adam_denominator(optimizer, weight) is None
    for step in range(4):
        before, weight.grad = weight.detach().clone(), gradient(step)
        optimizer.step()
        found = adam_denominator(optimizer, weight)
        assert found is not None
        torch.testing.assert_close(before - weight.detach(), 0.1 * gradient(step) / found, rtol=1e-9, atol=1e-12)
    assert adam_denominator(optimizer, frozen) is None


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adadelta])
def test_what_divides_by_something_else_is_refused(kind: type[Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = kind([weight])  # type: ignore[call-arg]
    weight.grad = gradient(0)
    optimizer.step()
    with pytest.raises(RequestError, match=f"needs an optimizer that keeps squared gradients, got {kind.__name__}"):
        adam_denominator(optimizer, weight)


def test_plain_sgd_which_never_has_a_state_is_refused_before_its_first_step() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(RequestError, match="needs an optimizer that keeps squared gradients, got SGD"):
        adam_denominator(torch.optim.SGD([weight], lr=0.1), weight)
