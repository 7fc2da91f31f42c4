"""Advice for a terminal: the batch sizes compared, the answer in a sentence, and what it leans on."""

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from rebatch.advice import WORTH, Advice, Option
from rebatch.interval import Interval
from rebatch.report.transfer_table import borderless


def options_table(advice: Advice) -> Table:
    """A row for the recipe as it is, then one for each batch size at its own best rate."""
    table = borderless("batch size", "micro-batch", "steps to the same loss", "examples", "time", "")
    table.add_row(*_cells(advice.today), Text("today"))
    for option in advice.options:
        table.add_row(*_cells(option), Text("best" if option == advice.best else ""))
    return table


def answer(advice: Advice) -> str:
    """One or two sentences."""
    best, faster = advice.best, advice.speedup
    bounds = f"95 %: {faster.low:.3g} to {faster.high:.3g}"
    between = f"the best batch size lies between {advice.likely[0]} and {advice.likely[1]}"
    if advice.answer == "stay":
        times = f"{faster.estimate:.3g} times as fast ({bounds})"
        return f"Keep batch size {advice.today.batch_size} and its rate: the best one compared is {times}."
    if advice.answer == "unknown":
        return (
            f"I don't know whether another batch size or rate is faster: {best.batch_size} seems to be "
            f"{faster.estimate:.3g} times as fast to the same loss ({bounds}, and below {WORTH} nobody would retune); "
            f"{between}. More --seeds would narrow it."
        )
    same = " (it is today's: what is gained comes from the rate)" if best.batch_size == advice.today.batch_size else ""
    pieces = best.cut.accumulation_steps
    cut = f" as {pieces} micro-batches of {best.cut.micro_batch_size}" if pieces > 1 else ""
    times = f"{faster.estimate:.3g} times as fast to the same loss ({bounds})"
    return f"Use batch size {best.batch_size}{cut}{same}: {times}; {between}."


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(0.25), duration(75), duration(7200), duration(400000)
    ('0.25 s', '1.2 min', '2 h', '4.6 days')
    """
    for length, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def _cells(option: Option) -> tuple[Text, ...]:
    cut = option.cut
    micro = f"{cut.accumulation_steps} x {cut.micro_batch_size}" if cut.accumulation_steps > 1 else "-"
    time = f"{duration(option.seconds.estimate)}{_range(option.seconds, duration)}"
    steps = f"{option.steps.estimate:,.0f}{_range(option.steps, lambda value: f'{value:,.0f}')}"
    return tuple(map(Text, (str(option.batch_size), micro, steps, f"{option.examples.estimate:,.0f}", time)))


def _range(interval: Interval, show: Callable[[float], str]) -> str:
    return "" if interval.low == interval.high else f" ({show(interval.low)} to {show(interval.high)})"
