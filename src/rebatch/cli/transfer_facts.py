"""What `rebatch transfer` is told of a run: options into facts."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rebatch.errors import RequestError
from rebatch.knee import Knee, Known, adam_knee, gain_knee, language_model_knee
from rebatch.noise_course import NoiseCourse, read_noise_course
from rebatch.recipe import Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.tasks import Task

if TYPE_CHECKING:
    from rebatch.knee_fit import KneeFit


def tokens_in_example(task: Task | None, given: int | None) -> int:
    """What the batch sizes count, in tokens: sequences of a language model, else examples of one token."""
    if task is None:
        return given or 1
    if given not in (None, task.tokens_per_example):
        raise RequestError(
            f"--tokens-per-example is {given}, and an example of {task.name} has {task.tokens_per_example} tokens; "
            "leave it out"
        )
    return task.tokens_per_example


def known_knee(
    tuned: Recipe,
    knee: float | None,
    fit: "KneeFit | None",
    tokens: float | None,
    parameters: float | None,
    length: int,
) -> tuple[Knee | None, Known]:
    """The knee that the options give, in examples of `length` tokens, and where it is from."""
    sgd = isinstance(tuned.optimizer, Sgd)
    if sum(each is not None for each in (knee, fit, tokens)) > 1:
        raise RequestError("--knee, --from-sweep and --tokens each give the knee; use one of them")
    if parameters is not None and tokens is None:
        raise RequestError("--parameters goes with --tokens: the law of a language model's knee has both")
    if fit is not None:
        return fit.knee, "sweep"
    if tokens is not None and sgd:
        raise RequestError("--tokens is a law of AdamW's knee, and optimizer.type is 'sgd'; give --noise-scale")
    if tokens is not None:
        in_tokens = language_model_knee(tokens, parameters)
        return msgspec.structs.replace(in_tokens, batch_size=in_tokens.batch_size / length), "law"
    if knee is None:
        return None, "law"
    return (gain_knee(knee) if sgd else adam_knee(knee)), "law"


def known_course(path: Path | None, noise_scale: float | None, given: Recipe, task: Task | None) -> NoiseCourse | None:
    """The noise scale along a run of the recipe that was tuned."""
    if path is None:
        return None
    if noise_scale is not None:
        raise RequestError("--noise-scale and --noise-scale-from each give the noise scale; use one of them")
    return read_noise_course(path, given.tuned or given, None if task is None else task.name)


def fitted(path: Path, tuned: Recipe) -> "KneeFit":
    """The knee of a table's runs, or of a store's."""
    from rebatch.knee_fit import SHAPES, fit_knee
    from rebatch.study.store import Store
    from rebatch.study.sweep_store import stored_sweep
    from rebatch.sweeps import read_sweep

    sweep = stored_sweep(Store(path)) if path.is_dir() else read_sweep(path)
    return fit_knee(sweep, SHAPES["sgd" if isinstance(tuned.optimizer, Sgd) else "adamw"])


def reduced(recipe: Recipe, reduction: str | None) -> Recipe:
    """The recipe, rewritten for summed or averaged losses where that is asked for."""
    match reduction:
        case None:
            return recipe
        case "sum" | "mean":
            return with_loss_reduction(recipe, reduction)
        case _:
            raise RequestError(f"--loss-reduction must be sum or mean, got {reduction!r}")


def known_examples(task: Task | None, examples: int | None, data_dir: Path | None) -> int | None:
    """N; without it, and with a note, where the task's data are the user's and not there."""
    from rebatch.cli.output import note

    if task is None:
        return examples
    if examples is not None:
        raise RequestError("--task and --examples both give the number of examples; use one of them")
    try:
        return task.sized(data_dir).train
    except RequestError as error:
        note(f"the number of examples is not known: {error}")
        return None
