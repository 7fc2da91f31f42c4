"""A small decoder-only transformer over bytes: GPT-2's layers (Radford et al., 2019), outputs not tied."""

import math

import torch
from torch import Tensor, nn

from rebatch.errors import RequestError
from rebatch.models.parts import Sum

BYTES = 256


class Attention(nn.Module):
    """Causal self-attention of several heads; sequences (B, T, width) to the same shape.

    Written out: torch's fused kernels have no second derivative on a CPU, which curvature needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each position looks at itself and at those before it."""
        length = x.shape[1]
        query, key, value = self.inputs(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        seen = scores.masked_fill(future, -math.inf).softmax(-1) @ value
        mixed: Tensor = self.outputs(seen.transpose(1, 2).flatten(2))
        return mixed


class Transformer(nn.Module):
    """Bytes (B, T), T at most `length`, to logits (B, 256, T) of the byte that comes next at each position.

    Norms come before the layers, positions are learned, and nothing is dropped. Classes are the second dimension, as
    torch's cross-entropy has them. Weights start at N(0, .02), in what leads back into the sum at .02 / sqrt(2 layers).

    Raises:
        RequestError: a width that the heads do not divide.
    """

    def __init__(self, *, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise RequestError(f"width must be a multiple of heads={heads}, got {width}; try {width - width % heads}")
        self.bytes, self.positions = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, BYTES, bias=False)
        self.apply(_start)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("outputs.weight", "branch.3.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, text: Tensor) -> Tensor:
        """Bytes of any integer type."""
        x = self.bytes(text.long()) + self.positions.weight[: text.shape[1]]
        logits: Tensor = self.head(self.blocks(x))
        return logits.transpose(1, 2)


def _block(width: int, heads: int) -> nn.Sequential:
    feed_forward = (nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    return nn.Sequential(
        Sum(nn.Sequential(nn.LayerNorm(width), Attention(width, heads))), Sum(nn.Sequential(*feed_forward))
    )


def _start(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
