"""How does the noise scale change while a run goes on? It grows as the loss falls, so it is read in windows."""

from collections.abc import Iterator

import msgspec
from torch import nn

from rebatch.batching import total_steps
from rebatch.data.sets import Splits
from rebatch.measure.noise_scale import NoiseScale, Norm
from rebatch.noise_scale import NoiseScaleEstimate
from rebatch.recipe import Recipe
from rebatch.training import train

# Parts of batches are shown again so often that a window holds this many measured steps, if it has as many.
MEASURED = 100


class Look(msgspec.Struct, frozen=True):
    """The noise scale over the steps since the look before; None where they were fewer than two."""

    step: int
    examples: int
    train_loss: float
    validation_loss: float
    noise_scale: NoiseScaleEstimate | None


def noise_scale_along(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    seed: int,
    looks: int = 10,
    micro_batch_size: int | None = None,
    norm: Norm = "euclidean",
) -> Iterator[Look]:
    """Train `model` in place by `recipe`, with `looks` evenly spaced estimates on the way.

    Raises:
        RequestError: plain batch norm in the model, or a step that cannot be split.
    """
    window = max(2, total_steps(recipe, len(data.train)) // looks)
    every = 1 if micro_batch_size is not None else max(1, window // MEASURED)
    observer = NoiseScale(window=max(2, window // every), split_every=every, norm=norm)
    options = {"observers": [observer], "evaluations": looks, "micro_batch_size": micro_batch_size}
    for row in train(model, data, recipe, seed=seed, **options):  # type: ignore[arg-type]
        if "validation_loss" in row:
            seen = int(row["step"]), int(row["examples"])
            yield Look(*seen, row["train_loss"], row["validation_loss"], observer.estimate())
