"""A transfer's start and goal, with the facts that are known on the way; and what a rule is."""

from collections.abc import Callable
from dataclasses import dataclass

from rebatch.errors import RequestError
from rebatch.recipe import Recipe


@dataclass(frozen=True)
class Move:
    """Where a transfer starts, where it goes, and the facts that are known on the way.

    `tuned` is the recipe somebody tuned, `batch_size` the new batch size, `examples` the size N of the training set.
    """

    tuned: Recipe
    batch_size: int
    examples: int | None = None

    @property
    def kappa(self) -> float:
        """New batch size over old."""
        return self.batch_size / self.tuned.batch_size

    def require_examples(self, rule: str) -> int:
        """N, or one line that says which rule needs it."""
        if self.examples is None:
            raise RequestError(
                f"{rule} needs the number of training examples; give --examples N or --task T "
                "(in Python: examples=N), or choose rules that do without"
            )
        return self.examples


@dataclass(frozen=True)
class Rule:
    """One rule of transfer: `apply` maps (recipe, move) to a recipe and changes only the fields it `sets`."""

    name: str
    sets: tuple[str, ...]
    apply: Callable[[Recipe, Move], Recipe]
    why: Callable[[Move], str]
