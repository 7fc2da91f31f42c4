"""Tables of a transfer for a terminal: what changed, by which rule and why, and what it costs."""

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rebatch.interval import Interval
from rebatch.price import Cost
from rebatch.recipe import Recipe
from rebatch.transfer import Transfer


def transfer_tables(result: Transfer) -> RenderableType:
    """What changed, by which rule and why; what it costs; where it started; warnings."""
    table = borderless("field", "before", "after", "rule", "why")
    for change in result.changes:
        why = f"{change.why} (weak evidence)" if change.evidence == "weak" else change.why
        cells = (change.field, show(change.before), show(change.after), change.rule, why)
        table.add_row(*map(Text, cells))  # as Text, brackets in a user's words are no markup
    nothing = [] if result.changes else [Text("Nothing changes: this is the batch size the recipe was tuned at.")]
    notes = [Text(f"note: {note}") for note in result.notes]
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in result.warnings]
    return Group(
        *nothing, *([table] if result.changes else []), _price_table(result), *_expected(result), *notes, *warnings
    )


def show(value: object) -> str:
    """A recipe's value as people read it: `{"epochs": 50}` becomes `50 epochs`.

    >>> show({"steps": 23450}), show(None), show(0.5656854249492381), show([0.9, 0.992027944])
    ('23,450 steps', '-', '0.56569', '0.9, 0.99203')
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{show(amount)} {unit}" for unit, amount in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _price_table(result: Transfer) -> Table:
    """Amounts where they are known, which without N is only the unit that both budgets share; factors always."""
    price = result.price
    before = _amounts(result.recipe.tuned or result.recipe, price.before)
    after = _amounts(result.recipe, price.after)
    factors = {"steps": price.steps_factor, "examples": price.examples_factor}
    shared = [name for name in ("steps", "examples", "epochs") if name in before and name in after]
    if "epochs" in shared:
        factors["epochs"] = after["epochs"] / before["epochs"]
    table = borderless("price", *(("before", "after") if shared else ()), "factor")
    for name, factor in factors.items():
        known = [_amount(amounts[name]) if name in shared else "" for amounts in (before, after)]
        table.add_row(name, *(known if shared else ()), f"x {factor:.4g}")
    return table


def _expected(result: Transfer) -> list[Text]:
    lines = []
    if result.lr is not None:
        low, high = (f"{end:.3g}" for end in (result.lr.low, result.lr.high))
        lines.append(f"best learning rate: {show(result.lr.estimate)}, with 90 % confidence {low} to {high}")
    if result.expected is not None:
        steps, examples = (_factor(each) for each in (result.expected.steps_factor, result.expected.examples_factor))
        lines.append(f"for the same loss, each batch size at its best rate: steps {steps}, examples {examples}")
    return [Text(line) for line in lines]


def _factor(interval: Interval) -> str:
    bounds = "" if interval.low == interval.high else f" [{interval.low:.3g}, {interval.high:.3g}]"
    return f"x {interval.estimate:.3g}{bounds}"


def _amounts(recipe: Recipe, cost: Cost | None) -> dict[str, float]:
    return msgspec.structs.asdict(cost or recipe.budget)


def _amount(value: float) -> str:
    return show(value) if isinstance(value, int) else f"{value:.4g}"


def borderless(first: str, *columns: str) -> Table:
    """An empty table without lines, whose cells wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in (first, *columns):
        table.add_column(Text(column), overflow="fold")  # as Text: `[adjusted]` is no markup
    return table
