"""A small problem with prime sizes for the laws of training: 5 inputs, 3 classes, float64."""

import torch
from torch import nn

from rebatch import draws
from rebatch.data.sets import DataSet, Splits
from rebatch.execution import Execution
from rebatch.models.transformer import Transformer
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.schedule import Cosine

FLOAT64 = Execution(precision="float64")

RECIPE = Recipe(
    batch_size=16,
    ghost_batch_size=4,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-3),
    schedule=Cosine(),
    budget=Epochs(3),
    max_grad_norm=0.5,
)


def toy_splits(train: int = 37) -> Splits:
    """`train` examples to train on (with batches of 16 the last batch has 5), 11 to validate on, 7 to test on."""
    numbers = draws.generator(0, "toy").normal(size=(train + 18, 5))
    inputs = torch.from_numpy(numbers)
    targets = (inputs[:, :3] + 0.3 * inputs[:, 2:]).argmax(1)
    data, held = DataSet(inputs, targets), train + 11
    return Splits(data.subset(range(train)), data.subset(range(train, held)), data.subset(range(held, held + 7)))


def toy_model(*, norm: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """5 -> 7 -> 3, the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(5, 7), *([nn.BatchNorm1d(7)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(7, 3)).double()


def toy_sequences(train: int = 37) -> Splits:
    """As many examples, of 7 bytes drawn evenly, in each of which the next one is predicted."""
    text = torch.from_numpy(draws.generator(0, "toy").integers(0, 256, (train + 18, 8)))
    data, held = DataSet(text[:, :-1].byte(), text[:, 1:]), train + 11
    return Splits(data.subset(range(train)), data.subset(range(train, held)), data.subset(range(held, held + 7)))


def toy_transformer() -> Transformer:
    """For them, 2 layers of 3 heads, the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(length=7, width=6, layers=2, heads=3).double()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 0.0) -> None:
    """Equal names and values, bit for bit unless `rtol` says otherwise."""
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=rtol * 1e-2, msg=f"{name} differs")
