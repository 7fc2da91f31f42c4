"""What a run was computed with: recorded beside its numbers, neither hashed nor compared."""

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rebatch


def environment() -> dict[str, Any]:
    """Date, versions, processor, commit. Device, threads and ranks are added where they are known."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "rebatch": rebatch.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **packages,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }


def _commit() -> str | None:
    """The commit of the source tree this package runs from, `+` where it has changes; `None` if installed."""
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _git(here.parent, "rev-parse", "--short=12", "HEAD")
    return f"{commit}+" if _git(here.parent, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
