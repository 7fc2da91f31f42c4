"""Loss and accuracy on data that is not trained on, without a trace in the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rebatch.cutting import cut, offsets
from rebatch.data.augment import Normalize
from rebatch.data.batches import prepare
from rebatch.data.sets import DataSet
from rebatch.data.views import Views, views_of
from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.training.gradients import SummedLoss, as_executed, autocast, cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per example, accuracy in percent, and which targets were hit: bool, shape (N,), on the CPU.

    Of sequences loss and accuracy are per token, and the shape is (N, T).
    """

    loss: float
    accuracy: float
    correct: Tensor


def evaluate(
    model: nn.Module,
    data: DataSet,
    normalize: Normalize | None = None,
    *,
    views: Views = "one",
    loss: SummedLoss = cross_entropy,
    execution: Execution | None = None,
    world: World | None = None,
    batch_size: int = 2048,
) -> Evaluation:
    """Evaluate `model` on `data` in evaluation mode, each rank on its share; the model's mode is put back.

    With several `views` of an example (`data.views`), loss and accuracy are those of its averaged outputs.

    Raises:
        RequestError: views of what is no image.
    """
    world, execution = world or World(), execution or Execution()
    share = cut([1] * len(data), world.size)
    start, stop = offsets([len(part) for part in share])[world.rank]
    total = torch.zeros((), dtype=torch.float64, device=data.targets.device)
    none = torch.zeros_like(data.targets[:0], dtype=torch.bool)  # more ranks than examples: a share is empty
    correct = [none]
    with _evaluating(model), autocast(execution, world.device.type):
        for first in range(start, stop, batch_size):
            inputs, targets = prepare(data, slice(first, min(first + batch_size, stop)), normalize)
            outputs = _outputs(model, inputs, views, execution)
            total += loss(outputs, targets).double()
            correct.append(outputs.argmax(1) == targets)
    hits = world.gather(torch.cat(correct).to(torch.uint8)).bool().cpu()
    return Evaluation(world.sum(total).item() / len(data), 100.0 * hits.double().mean().item(), hits)


def _outputs(model: nn.Module, inputs: Tensor, views: Views, execution: Execution) -> Tensor:
    """The model's outputs, averaged over the views, several of them never in half precision."""
    viewed = views_of(inputs, views)
    seen: list[tuple[float, Tensor]] = [(weight, model(as_executed(view, execution))) for weight, view in viewed]
    if len(seen) == 1:
        return seen[0][1]
    dtype = torch.promote_types(seen[0][1].dtype, torch.float32)
    return torch.stack([weight * outputs.to(dtype) for weight, outputs in seen]).sum(0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
