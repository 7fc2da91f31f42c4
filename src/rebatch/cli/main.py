"""The `rebatch` command: its table of commands, and what an error looks like."""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

import rebatch
from rebatch.cli import advise, data, measure, recipe, report, study, train, transfer
from rebatch.errors import RequestError, RunError

app = typer.Typer(
    name="rebatch",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("recipe")(recipe.recipe)
app.command("transfer")(transfer.transfer)
app.command("train")(train.train)
app.command("report")(report.report)
app.add_typer(study.app, name="study")
app.add_typer(measure.app, name="measure")
app.command("advise")(advise.advise)
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        print(f"rebatch {rebatch.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Change the batch size of neural-network training, keep the accuracy, know the price."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 the request was wrong, 130 stopped by Ctrl-C."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every expected error becomes one line on standard error and an exit status."""
    try:
        status = app(args=spread(arguments, "--rules"), prog_name="rebatch", standalone_mode=False)
    except RequestError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # `rebatch ... | head`
        from rebatch.cli.output import drop_output

        drop_output()
        return 1
    except OSError as error:
        return _say(": ".join(filter(None, (error.strerror or str(error), error.filename))), 1)
    except Exception as error:
        return _unexpected(error, arguments)
    if status == 130:  # Typer turns Ctrl-C into this status itself
        return _say(_stopped(arguments), 130)
    return status if isinstance(status, int) else 0


def _unexpected(error: Exception, arguments: Sequence[str]) -> int:
    """What the parser refuses and what a user's own code raises become one line; the rest is ours and is raised."""
    if type(error).__name__ == "NoArgsIsHelpError":  # Typer's errors are told by name: their classes moved
        print(error)
        return 2
    if hasattr(error, "format_message"):
        return _say(f"{error.format_message()}{_given(error, arguments)} (see rebatch --help)", 2)
    from rebatch.tasks.find import describe, users_line

    if users_line(error):
        return _say(describe(error), 1)
    raise error


def _stopped(arguments: Sequence[str]) -> str:
    if list(arguments[:2]) in (["study", "run"], ["data", "fetch"]):
        return "stopped; what was finished is kept, the same command goes on from here"
    if list(arguments[:1]) != ["train"]:
        return "stopped; nothing is kept"
    if any(argument.split("=")[0] == "--store" for argument in arguments):
        return "stopped; the same command goes on from its last checkpoint (one a minute), else it starts over"
    return "stopped; nothing is kept without --store"


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
