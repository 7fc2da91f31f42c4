"""What the probes of `hardware-batch` do: cut one training in many ways, time grids of batches, count what is kept."""

import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import draws
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.execution import Execution
from rebatch.measure.kept import kept_by_training, kept_for_backward, numbers_put_out
from rebatch.models.vgg import vgg16
from rebatch.observation import Observation, Observer
from rebatch.recipe import Steps
from rebatch.step_time import fit_step_time
from rebatch.study.plan import RunSpec
from rebatch.study.probes import Cuts, KeptImages, StepTimes
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task
from rebatch.training import evaluate, train

Measured = tuple[list[dict[str, float]], dict[str, float]]

# A block of steps is timed from after its first ones on, and has at least so many.
WARM, LEAST_STEPS = 2, 6
IDLE_LR = 1e-12


def cuts(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """By micro-batch size: test accuracy, distance of the final weights from the uncut run's, bytes kept.

    The distance is that of the weight that is furthest off, over the largest weight. All in float64.
    """
    wanted = spec.probe
    assert isinstance(wanted, Cuts)
    data, whole = splits_of(spec, task, data_dir), spec.recipe.batch_size
    reference: Tensor | None = None
    found: dict[str, float] = {}
    for size in sorted({whole, *wanted.micro_batch_sizes}, reverse=True):
        model = _trained(spec, task, data, size)
        weights = torch.cat([each.detach().flatten() for each in model.parameters()])
        reference = weights if reference is None else reference
        found[f"apart:{size}"] = float((weights - reference).abs().max() / reference.abs().max())
        test = evaluate(model, data.test, data.normalize, execution=Execution(precision="float64"))
        found |= {f"accuracy:{size}": test.accuracy, f"kept:{size}": float(_kept(model, data, size))}
    return [], found


def step_times(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """Milliseconds of a step by (batch size, micro-batch size), medians over rounds that each time all of them.

    It is the process's own time, the update included. Through the times of batches that are not cut goes the line
    a + b B: `fixed` and `per_example` in milliseconds, and `misfit`, its largest relative distance from a median.
    """
    wanted = spec.probe
    assert isinstance(wanted, StepTimes)
    data = splits_of(spec, task, data_dir)
    seconds: dict[tuple[int, int], list[float]] = {pair: [] for pair in wanted.pairs}
    for number in range(wanted.rounds):
        for pair in wanted.pairs[:: 1 if number % 2 == 0 else -1]:
            seconds[pair].append(_seconds(spec, task, data, *pair, examples=wanted.examples))
    found = {f"milliseconds:{size}:{micro}": 1e3 * median(many) for (size, micro), many in seconds.items()}
    line = fit_step_time({size: many for (size, micro), many in seconds.items() if micro == size})
    fixed, each = line.fixed.estimate, line.per_example.estimate
    return [], found | {"fixed": 1e3 * fixed, "per_example": 1e3 * each, "misfit": line.misfit}


def kept_images(spec: RunSpec, _: Task, __: Path | None) -> Measured:
    """Of VGG-16, per image: numbers put out, and bytes kept for the way back, on torch's meta device.

    How many images there are the seed draws: the numbers must not depend on it.
    """
    wanted = spec.probe
    assert isinstance(wanted, KeptImages)
    images = int(draws.generator(spec.seed, "kept_images").integers(1, wanted.most_images + 1))
    with torch.device("meta"):
        model, inputs = vgg16(), torch.empty(images, 3, 224, 224)
    kept = kept_by_training(model, inputs)
    integers = sum(size for dtype, size in kept.items() if not dtype.is_floating_point)
    return [], {
        "images": float(images),
        "numbers": numbers_put_out(model, inputs) / images,
        "kept_megabytes": sum(kept.values()) / images / 1e6,
        "kept_integer_megabytes": integers / images / 1e6,
    }


def _trained(spec: RunSpec, task: Task, data: Splits, micro_batch_size: int) -> nn.Module:
    model = task.model(spec.seed, data)
    rows = train(
        model,
        data,
        spec.recipe,
        seed=spec.seed,
        execution=Execution(precision="float64"),
        micro_batch_size=micro_batch_size,
        evaluations=1,
        allow_batch_norm=True,
    )
    for _ in rows:
        pass
    return model


def _kept(model: nn.Module, data: Splits, micro_batch_size: int) -> int:
    """Bytes that a micro-batch's loss keeps."""
    inputs, targets = prepare(data.train, slice(0, micro_batch_size), data.normalize)
    inputs, targets = inputs.double(), targets.clone()  # and not views of all examples
    state = (*model.parameters(), *model.buffers())
    return sum(kept_for_backward(lambda: F.cross_entropy(model(inputs), targets), besides=state).values())


def _seconds(
    spec: RunSpec, task: Task, data: Splits, batch_size: int, micro_batch_size: int, *, examples: int
) -> float:
    """The mean step of a short run, its first steps and its evaluation left out."""
    steps = WARM + max(LEAST_STEPS, examples // batch_size)
    # At a rate of next to nothing no batch size can diverge, and a step takes as long as any.
    recipe = spec.recipe.replace(batch_size=batch_size, budget=Steps(steps + 1)).with_lr(IDLE_LR)
    clock = _Clock()
    model = task.model(spec.seed, data)
    for _ in train(
        model,
        data,
        recipe,
        seed=spec.seed,
        execution=spec.execution,
        micro_batch_size=micro_batch_size,
        observers=[clock],
        evaluations=1,
    ):
        pass
    # The moment of step i is after its gradient: between two of them lie one update and one gradient.
    return (clock.moments[steps] - clock.moments[WARM]) / (steps - WARM)


class _Clock(Observer):
    """When each step's gradient was complete.

    In the process's own time: on one thread, which workers have, what else runs on the machine then counts little.
    """

    def __init__(self) -> None:
        self.moments: list[float] = []

    def step(self, observation: Observation) -> None:
        self.moments.append(time.process_time())
