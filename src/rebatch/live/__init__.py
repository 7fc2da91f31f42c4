"""What people have: a torch optimizer and scheduler in the middle of a run, read as a recipe and moved by one."""

from rebatch.live.recipe import apply_recipe, recipe_of
from rebatch.live.state import carry_over

__all__ = ["apply_recipe", "carry_over", "recipe_of"]
