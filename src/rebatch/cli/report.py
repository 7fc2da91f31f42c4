"""`rebatch report`: the page of a store."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="The store of a study.", metavar="DIR")],
    output: Annotated[Path | None, typer.Option("--output", help="Folder for the page; DIR/report by default.")] = None,
) -> None:
    """Write the report page: one HTML file that works from disk without a network."""
    from rebatch.cli.output import say
    from rebatch.report.page import write_report
    from rebatch.study.store import Store

    say(str(write_report(Store(folder), output or folder / "report")))
