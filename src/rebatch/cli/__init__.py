"""The command line: one thin file per command."""

from rebatch.cli.main import main

__all__ = ["main"]
