"""The `rebatch` command: its table of commands, and what an error looks like."""

import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise

import typer

from rebatch.cli import data, report, study, train, transfer
from rebatch.errors import RequestError, RunError

app = typer.Typer(
    name="rebatch",
    help="Change the batch size of neural-network training, keep the accuracy, know the price.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("transfer")(transfer.transfer)
app.command("train")(train.train)
app.command("report")(report.report)
app.add_typer(study.app, name="study")
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 the request was wrong, 130 stopped by Ctrl-C."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every expected error becomes one line on standard error and an exit status."""
    try:
        status = app(args=spread(arguments, "--rules"), standalone_mode=False)
    except RequestError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # `rebatch ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(f"{error.strerror or error}: {error.filename or 'the system refused'}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors, whose class moved between releases
            return _say(f"{error.format_message()}{_given(error, arguments)} (see rebatch --help)", 2)
        raise
    if status == 130:  # Typer turns Ctrl-C into this status itself
        return _say("stopped; what was finished is kept, the same command goes on from here", 130)
    return status if isinstance(status, int) else 0


def _given(error: Exception, arguments: Sequence[str]) -> str:
    """`, got 'many'`: the value of the option that a usage error is about, which the parser leaves out."""
    names = getattr(getattr(error, "param", None), "opts", [])
    values = [value for name, value in pairwise(arguments) if name in names]
    return f", got {values[-1]!r}" if values else ""


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """`--rules a b` as `--rules a --rules b`, which the parser understands; a name is letters, digits, `_`, `,`.

    >>> spread(["--rules", "sqrt_lr", "ghost_batch", "recipe.toml"], "--rules")
    ['--rules', 'sqrt_lr', '--rules', 'ghost_batch', 'recipe.toml']
    """
    spread_out: list[str] = []
    for argument in arguments:
        follows = spread_out[-2:-1] == [option] and re.fullmatch(r"[\w,]+", argument)
        spread_out += [option, argument] if follows else [argument]
    return spread_out


def _say(error: object, status: int) -> int:
    line = " ".join(str(error).split())
    print(f"rebatch: {line}", file=sys.stderr)
    return status
