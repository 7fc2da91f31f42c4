"""What a study may ask to be measured after a run's last step, by name."""

from collections.abc import Callable, Mapping

from torch import nn

from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError, did_you_mean
from rebatch.study.plan import RunSpec
from rebatch.training import evaluate

Final = Callable[[RunSpec, nn.Module, Splits, World], Mapping[str, float]]


def train_evaluation(spec: RunSpec, model: nn.Module, data: Splits, world: World) -> Mapping[str, float]:
    """Loss and accuracy on the training set as it is, unaugmented, in evaluation mode."""
    found = evaluate(model, data.train, data.normalize, execution=spec.execution, world=world)
    return {"final_train_loss": found.loss, "final_train_accuracy": found.accuracy}


FINALS: dict[str, Final] = {"train_evaluation": train_evaluation}


def finals(spec: RunSpec, model: nn.Module, data: Splits, world: World) -> dict[str, float]:
    """All that `spec` asks for.

    Raises:
        RequestError: it asks for something that is not in the table.
    """
    measured: dict[str, float] = {}
    for name in spec.finals:
        if name not in FINALS:
            raise RequestError(f"nothing named {name!r} can be measured after a run{did_you_mean(name, FINALS)}")
        measured |= FINALS[name](spec, model, data.to(world.device), world)
    return measured
