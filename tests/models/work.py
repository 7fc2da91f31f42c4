"""What a model costs, as torch counts it: the other side of the hand-written tables."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def forward_work(model: nn.Module) -> int:
    """Multiply-accumulates of convolutions and linear layers, for one image of 32 x 32."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2


def training_work(model: nn.Module) -> int:
    """The same, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32)).sum().backward()
    return int(counter.get_total_flops()) // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images(examples: int, side: int = 32) -> Tensor:
    """Float64 images of standard normal noise, each time the same."""
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(examples, 3, side, side, dtype=torch.float64, generator=numbers)


def half_precision_step(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Training-mode outputs in float32 and in bfloat16 with channels last, after a backward pass of the latter."""
    model.train()
    exact = model(inputs.float()).detach()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(inputs.float().to(memory_format=torch.channels_last))
    rounded.float().square().mean().backward()
    return exact, rounded.detach().float()


def outputs_in_pairs(twin: nn.Module, model: nn.Module) -> Tensor:
    """What `twin`, given the weights of `model`, makes of four images, two at a time: ghosts of two, the slow way."""
    twin.load_state_dict(model.state_dict())
    return torch.cat([twin(pair) for pair in torch.split(images(4), 2)])
