"""`rebatch data`: which published sets there are, and fetching them. Imports no torch."""

from typing import Annotated

import typer

from rebatch.cli.options import DataDir, Json

app = typer.Typer(help="Published data sets.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_sets(data_dir: DataDir = None, json: Json = False) -> None:
    """The sets, where they are expected, and whether they lie there."""
    import msgspec

    from rebatch.cli.output import note, say, write_json
    from rebatch.data.catalog import CATALOG
    from rebatch.data.fetch import status
    from rebatch.data.folder import data_dir as choose

    folder = choose(data_dir)
    states = {name: status(name, folder) for name in CATALOG}
    if json:
        rows = [{"name": name, "status": state} for name, state in states.items()]
        write_json(msgspec.json.encode({"data_dir": str(folder), "sets": rows}))
        return
    note(f"data folder: {folder}")
    for name, state in states.items():
        say(f"{name:<14} {state}")


@app.command("fetch")
def fetch_sets(
    names: Annotated[list[str], typer.Argument(help="mnist, fashion-mnist, cifar10, cifar100.", metavar="NAME")],
    data_dir: DataDir = None,
) -> None:
    """Download published sets, checksums pinned; what already lies there whole is left alone."""
    from rebatch.cli.output import note
    from rebatch.data.fetch import fetch
    from rebatch.data.folder import data_dir as choose

    for name in names:
        fetch(name, choose(data_dir), progress=True)
        note(f"{name}: in {choose(data_dir)}")
