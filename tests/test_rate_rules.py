"""The benchmark over finished sweeps: where the default's own law holds it says so, and the docs repeat it."""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rebatch.study.store import Store
from report.made_up import made_up_store

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/rate_rules.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rate_rules", ROOT / "benchmarks" / "rate_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rate_rules"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("stores")
    stores = [made_up_store("rate-sweep", root / task.replace("/", "-"), task=task, seeds=2)[0].root for task in TASKS]
    done = run(*map(str, stores), "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


TASKS = ("digits/mlp-plain", "mnist/f1")


def test_every_task_and_optimizer_is_a_group_and_the_default_is_near_in_all(found: dict[str, Any]) -> None:
    names = {f"{task}, {optimizer}" for task in TASKS for optimizer in ("sgd", "adamw")}
    assert set(found["by_group"]) == names
    for name in names:
        rules = found["by_group"][name]["rules"]
        assert rules["default"]["near"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
        assert rules["default"]["regret"]["mean"] < rules["constant"]["regret"]["mean"]
        assert rules["linear"]["near"]["mean"] < 0.8


def test_the_mean_over_all_is_that_of_the_groups_and_what_is_saved_the_difference(found: dict[str, Any]) -> None:
    for rule in ("constant", "sqrt", "linear", "default"):
        regrets = [each["rules"][rule]["regret"]["mean"] for each in found["by_group"].values()]
        assert found["all"]["rules"][rule]["regret"]["mean"] == pytest.approx(sum(regrets) / len(regrets), rel=1e-3)
    for each in (found["all"], *found["by_group"].values()):
        for rule, saved in each["saved_by_default"].items():
            apart = each["rules"][rule]["regret"]["mean"] - each["rules"]["default"]["regret"]["mean"]
            assert saved["mean"] == pytest.approx(apart, abs=1e-5)
    constant = found["all"]["rules"]["constant"]["regret"]
    assert constant["low"] < constant["mean"] < constant["high"]  # groups differ


def test_a_store_without_a_whole_seed_is_told_in_one_line(tmp_path: Path) -> None:
    Store(tmp_path / "store", create=True)
    done = run(str(tmp_path / "store"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no seed of rate-sweep has all its runs" in done.stderr


def test_the_table_of_the_page_is_that_of_the_kept_result() -> None:
    """Mend with the benchmark's output without --json."""
    kept = json.loads((ROOT / "results" / "benchmarks" / "rate_rules.json").read_text())
    page = (ROOT / "docs" / "choosing-a-rule.md").read_text()
    assert page.partition("<!-- rate-rules -->\n")[2].partition("<!-- /rate-rules -->")[0] == benchmark().markdown(kept)


def test_how_low_the_linear_rule_carries_a_long_way_down_is_as_the_page_says() -> None:
    kept = json.loads((ROOT / "results" / "benchmarks" / "rate_rules.json").read_text())
    page = (ROOT / "docs" / "choosing-a-rule.md").read_text()
    ratios = []
    for group in (each for each in kept["groups"] if each["optimizer"] == "sgd"):
        best = {int(size): curve["best_lr"] for size, curve in group["batch_sizes"].items()}
        ratios += [best[old] * new / old / best[new] for old in best for new in best if 8 * new <= old]
    shown = [f"{value:.2f}"[1:] for value in (statistics.geometric_mean(ratios), min(ratios), max(ratios))]
    assert len(ratios) == 7
    assert "at 1/8 and 1/16 it carries to {} of the best rate (seven pairs, {} to {})".format(*shown) in page


def test_how_many_best_rates_lie_within_the_bounds_is_as_the_page_says() -> None:
    kept = json.loads((ROOT / "results" / "benchmarks" / "rate_rules.json").read_text())
    page = " ".join((ROOT / "docs" / "choosing-a-rule.md").read_text().split())

    def covered(rule: str, *optimizers: str) -> tuple[int, int]:
        groups = [each for name, each in kept["covered"].items() if name.endswith(optimizers)]
        counts = [each[rule] for each in groups if rule in each]
        return sum(each["covered"] for each in counts), sum(each["pairs"] for each in counts)

    sgd, adamw = covered("default", "sgd"), covered("default", "adamw")
    linear, root, sweep = covered("linear", "sgd"), covered("sqrt", "adamw"), covered("sweep", "sgd", "adamw")
    assert {pairs for _, pairs in (sgd, adamw, linear, root)} == {52}
    assert (
        f"of 52 pairs each: linear for SGD {linear[0]}, the default for SGD {sgd[0]} and for AdamW {adamw[0]}, the "
        f"square root for AdamW {root[0]}, a sweep's knee {sweep[0]} of {sweep[1]}." in page
    )


def test_bounds_are_counted_for_the_rules_that_give_some(found: dict[str, Any]) -> None:
    for name, counts in found["covered"].items():
        own = ("linear", "gain") if name.endswith("sgd") else ("sqrt",)
        assert set(counts) - {"sweep"} == {"default", *own}  # a sweep of few batch sizes shows no knee
        assert all(0 <= each["covered"] <= each["pairs"] for each in counts.values())
        assert counts["default"]["covered"] == counts["default"]["pairs"] > 0
