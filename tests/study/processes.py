"""`rebatch study run` in a process of its own, and what it left in the store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def command(study: str, store: Path, *options: str) -> list[str]:
    task = [] if "--task" in options else ["--task", "digits"]
    return [sys.executable, "-m", "rebatch", "study", "run", study, *task, "--store", str(store), "--json", *options]


def finish(study: str, store: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(command(study, store, *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def numbers(store: Path) -> dict[str, Any]:
    """All that runs measured, by run: rows, and results without time and environment."""
    found = {}
    for result in store.glob("runs/*/result.json"):
        kept = json.loads(result.read_text())
        del kept["seconds"], kept["environment"]
        found[result.parent.name] = (kept, (result.parent / "rows.jsonl").read_text())
    return found
