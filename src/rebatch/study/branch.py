"""What a branch of a run is trained by: a constant rate from where the run stands, for a few steps."""

import msgspec

from rebatch.errors import RequestError
from rebatch.recipe import Recipe, Steps
from rebatch.schedule import Constant, Feedback, Schedule


def branch_recipe(recipe: Recipe, steps: int) -> Recipe:
    """At a constant rate, and without what a recipe does to a fresh model, at the start of an epoch, or at the end."""
    defects = msgspec.structs.replace(recipe.defects, batch_norm_scale="ones", reset_momentum_epochs=None)
    return recipe.replace(schedule=Constant(), budget=Steps(steps), defects=defects, averaging=None)


def refuse_feedback(schedule: Schedule, what: str) -> None:
    """Where a run stands must follow from its progress alone, so that its rate there is known."""
    if isinstance(schedule, Feedback):
        kind = schedule.__struct_config__.tag
        raise RequestError(f"{what} need a schedule that is a function of progress, got {kind!r}; use another")
