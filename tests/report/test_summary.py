"""From stored results to tables where the test set is the same for all seeds."""

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from rebatch.execution import Execution
from rebatch.report.paper.rows import claim_rows
from rebatch.report.sections import claims_table
from rebatch.report.summary import summarize, to_json
from rebatch.report.terminal import study_tables
from rebatch.study.plan import make_plan
from rebatch.study.store import Result, Store, pack
from rebatch.study.studies.hoffer_2017.gap import GAP
from rebatch.tasks import TASKS

PLAN = make_plan(GAP, TASKS["mnist/f1"], "cpu", execution=Execution())
DIVERGED = "large_batch+lr"


def hits(accuracy: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(10_000) < accuracy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """All runs of the plan: one arm diverged with every seed."""
    store = Store(tmp_path, create=True)
    for number, arm in enumerate(PLAN.design.arms):
        for seed in range(PLAN.design.seeds):
            right = hits(0.95 + 0.005 * number, 100 * number + seed)
            result = Result(
                status="done",
                steps=7,
                accuracy=100 * float(right.mean()),
                correct=pack(right),
                test_examples=len(right),
            )
            if arm.name == DIVERGED:
                result = Result(status="diverged", steps=3, accuracy=10.0)
            store.begin(PLAN.spec(arm, seed)).finish(result)
    return store


def test_an_arm_that_diverged_with_every_seed_counts_at_chance_on_every_example(store: Store) -> None:
    summary = summarize(PLAN, store)
    (arm,) = [arm for arm in summary.arms if arm.name == DIVERGED]
    assert (arm.diverged, arm.accuracy.mean if arm.accuracy else None) == (PLAN.design.seeds, 10.0)
    verdicts = {claim.id: claim.verdict for claim in summary.claims}
    assert verdicts["H2"] == "refuted"  # it recovers nothing
    assert msgspec.json.decode(to_json(summary))["runs"]["diverged"] == PLAN.design.seeds


def test_a_shared_test_set_is_crossed_with_the_seeds(store: Store) -> None:
    claims = {claim.id: claim for claim in summarize(PLAN, store).claims}
    assert "3 paired seeds crossed with 10000 examples" in claims["H4"].note
    assert claims["H1"].expected == 1.22


@pytest.mark.parametrize(("falls", "state"), [(None, "is not shown"), (0.5, "does not hold"), (0.0, "")])
def test_what_a_claim_takes_for_granted_is_shown_with_it(store: Store, falls: float | None, state: str) -> None:
    names = [f"still_falling:{batch}" for batch in ("small_batch", "large_batch")]
    seeds = range(PLAN.design.seeds)
    if falls is not None:
        made = {name: {seed: falls + 1e-5 * seed for seed in seeds} for name in names}
        store.save_quantities(PLAN, made)
    summary = summarize(PLAN, store)
    claim = next(claim for claim in summary.claims if claim.id == "H24")
    caveats = tuple(f"its premise {state}: {name}" for name in names) if state else ()
    assert claim.caveats == caveats
    assert not state or claim.verdict == "undecided"
    kept = next(each for each in msgspec.json.decode(to_json(summary))["claims"] if each["id"] == "H24")
    assert [each["test"]["name"] for each in kept["premise"]] == names

    table, console = study_tables(summary), Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    assert ("H24: its premise" in shown) is bool(state)
    assert "effect [adjusted]" in shown  # a header in brackets is no markup
    page = str(claims_table(summary))
    assert page.count("premise still_falling:") == 2
    assert (f"its premise {state}" in page) is bool(state)
    rows = claim_rows(summary.claims).get("of all it has fallen", [])
    drawn = [] if falls is None else [f"premise: {name} < 0.01" for name in names]
    assert [row.detail.partition(";")[0] for row in rows] == drawn


def test_a_store_without_runs_says_nothing_and_does_not_fail(tmp_path: Path) -> None:
    summary = summarize(PLAN, Store(tmp_path, create=True))
    assert all(arm.accuracy is None and arm.n == 0 for arm in summary.arms)
    assert {claim.verdict for claim in summary.claims} == {"undecided"}
