"""Imports point one way, and the arithmetic stays free of torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH_FREE = [
    "rebatch",
    "rebatch.batching",
    "rebatch.cutting",
    "rebatch.draws",
    "rebatch.execution",
    "rebatch.knee",
    "rebatch.knee_fit",
    "rebatch.noise_course",
    "rebatch.price",
    "rebatch.quadratic",
    "rebatch.recipe",
    "rebatch.rules",
    "rebatch.schedule",
    "rebatch.statistics",
    "rebatch.step_time",
    "rebatch.sweeps",
    "rebatch.transfer",
    "rebatch.report.page",
    "rebatch.report.summary",
    "rebatch.study.capacity",
    "rebatch.study.claims",
    "rebatch.study.engine",
    "rebatch.study.plan",
    "rebatch.study.store",
    "rebatch.study.studies",
    "rebatch.tasks",
    "rebatch.data.catalog",
    "rebatch.data.fetch",
]


def test_imports_point_one_way() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_reads_results_and_recipes_imports_no_torch() -> None:
    code = f"import sys\nfor name in {TORCH_FREE}:\n    __import__(name)\n    assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["src", "tests", "docs", "examples", "benchmarks", "results", "scripts", ".ci"])
def test_no_machine_path_is_left_behind(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".py", ".md", ".json", ".toml", ".html", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            for mark in ("/root" + "/", "/work" + "/", "/home" + "/", "../sha" + "red"):
                assert mark not in text, f"{path}: {mark}"
