"""What a finished run left, as studies read it: its numbers at the end and its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebatch.recipe import Recipe

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One run: the recipe, what it measured after its last step (`metrics`, by name), and its rows.

    The rows of an imported run stayed behind, and a study's function that looks at them gets no further with that seed;
    one that can do without them asks `has_rows` first.
    """

    recipe: Recipe
    diverged: bool
    metrics: Mapping[str, float]
    rows: Rows
    has_rows: bool = True

    def column(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of every row that has `name`."""
        return [(row["step"], row[name]) for row in self.rows if name in row]


SeedRuns = Mapping[str, FinishedRun]
"""The finished runs of one seed by the name of their arm."""
