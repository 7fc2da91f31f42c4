"""Tables of a transfer for a terminal: what changed, by which rule and why, and what it costs."""

from collections.abc import Collection

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
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


# Spaces between two columns.
PADDING = 2


def borderless(first: str, *columns: str, whole: Collection[str] = ()) -> Table:
    """An empty table without lines, whose cells wrap between words, but not in the columns `whole`.

    A terminal too narrow for that gets lines longer than it is wide.
    """
    table = _Unbroken(box=None, pad_edge=False, header_style="bold", padding=(0, PADDING, 0, 0))
    for column in (first, *columns):
        table.add_column(Text(column), overflow="fold", no_wrap=column in whole)  # as Text: `[adjusted]` is no markup
    return table


# Longer words, such as paths, may break.
LONGEST_WORD = 30


class _Unbroken(Table):
    """Rich breaks numbers and names where columns are narrow; here a column is as wide as its longest word."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for column in self.columns:
            texts = [str(cell) for cell in (column.header, *column.cells)]
            words = texts if column.no_wrap else [word for text in texts for word in text.split()]
            longest = max(map(cell_len, words), default=1)
            column.min_width = longest if column.no_wrap else min(longest, LONGEST_WORD)
        least = sum((column.min_width or 0) + PADDING for column in self.columns)
        # Where there is less room Rich would drop whole columns.
        yield from super().__rich_console__(console, options.update_width(max(least, options.max_width)))
