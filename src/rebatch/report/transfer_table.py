"""Tables of a transfer for a terminal: what changed, by which rule and why, and what it costs."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rebatch.price import Price
from rebatch.transfer import Transfer


def transfer_tables(result: Transfer) -> RenderableType:
    """What changed, by which rule and why; what it costs; warnings."""
    table = borderless("field", "before", "after", "rule", "why")
    for change in result.changes:
        table.add_row(change.field, show(change.before), show(change.after), change.rule, change.why)
    nothing = [] if result.changes else [Text("Nothing changes: this is the batch size the recipe was tuned at.")]
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in result.warnings]
    return Group(*nothing, *([table] if result.changes else []), _price_table(result.price), *warnings)


def show(value: object) -> str:
    """A recipe's value as people read it: `{"epochs": 50}` becomes `50 epochs`.

    >>> show({"steps": 23450}), show(None), show(0.5656854249492381)
    ('23,450 steps', '-', '0.56569')
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{show(amount)} {unit}" for unit, amount in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _price_table(price: Price) -> Table:
    table = borderless("price", "before", "after", "factor")
    before, after = price.before, price.after
    rows = [("steps", price.steps_factor), ("examples", price.examples_factor)]
    for name, factor in rows:
        old, new = (show(getattr(cost, name)) if cost else "-" for cost in (before, after))
        table.add_row(name, old, new, f"x {factor:.4g}")
    if before is not None and after is not None:
        table.add_row("epochs", f"{before.epochs:.4g}", f"{after.epochs:.4g}", f"x {after.epochs / before.epochs:.4g}")
    return table


def borderless(first: str, *columns: str) -> Table:
    """An empty table without lines, whose cells wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
