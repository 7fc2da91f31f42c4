"""What to doubt of a transfer whatever its rules: a loss that the batch is part of, a batch that grows too far."""

from collections.abc import Sequence

from rebatch.noise_course import in_words
from rebatch.price import sizes
from rebatch.recipe import Recipe
from rebatch.rules.move import Move


def run_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """Of the recipe that came out."""
    return [*contrastive_doubts(move), *growth_doubts(recipe, move)]


def contrastive_doubts(move: Move) -> Sequence[str]:
    """A loss over pairs of a batch's examples: no two batch sizes have the same."""
    if not move.facts.contrastive:
        return ()
    return (
        "a contrastive loss takes its negatives from the batch: another batch size is another loss, and no rule holds; "
        "keep the number of negatives (a queue of them), or tune anew",
    )


def growth_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A batch that grows beyond where more examples buy fewer steps, at that time of the run where it is known."""
    first = recipe.batch_size
    too_large = [stage for stage in move.stages(sizes(recipe)) if stage.new > max(first, stage.critical.estimate)]
    if not too_large:
        return ()
    worst = max(too_large, key=lambda stage: stage.new / max(stage.critical.estimate, 1.0))
    there = worst.critical
    shown = f"{there.estimate:.4g}" if there.low == there.high else in_words(there)
    known = "noise scale" if move.facts.critical_batch_size is None else "critical batch size"
    beyond, then = (
        ("perhaps beyond", "if so, it saves few steps from then on")
        if worst.new <= there.high
        else ("beyond", "from then on it saves few steps")
    )
    return (
        f"the batch grows to {worst.new:g}, {beyond} the {known} there, {shown}: {then}, and the same loss takes more "
        "examples",
    )


def run_notes(move: Move) -> Sequence[str]:
    """Where a noise scale that drifts is from, and what it is used for."""
    course = move.facts.noise_course
    if course is None:
        return ()
    source = f" from {course.source}" if course.source else ""
    no_price = move.facts.critical_batch_size is not None or move.facts.contrastive
    priced = "" if no_price else "; the same loss is priced window by window"
    return (f"noise scale{source}: {course}{priced}",)
