"""The rules of transfer, each a pure function from (recipe, move) to recipe."""
