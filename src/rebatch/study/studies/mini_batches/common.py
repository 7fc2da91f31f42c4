"""What the studies of the discussion share: its name, and how a claim of it is written."""

from rebatch.study.claims import Claim, Comparison, Test

# `rebatch study list --source mini-batches` finds studies by how this begins.
DISCUSSION = "Mini-batches, why at all? (a discussion)"


def claim(
    id_: str,
    statement: str,
    test: Test,
    *,
    why: str,
    expected: float | None = None,
    after: str = "",
    ours: str = "",
    premise: tuple[Comparison, ...] = (),
) -> Claim:
    """A claim of the discussion by its number, `after` the work that it leans on; or one of `ours` beside it."""
    source = f"rebatch: {ours}" if ours else f"Mini-batches, why at all?, {id_}" + (f"; {after}" if after else "")
    return Claim(id=id_, statement=statement, source=source, test=test, expected=expected, why=why, premise=premise)
