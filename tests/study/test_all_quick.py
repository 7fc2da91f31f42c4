"""Every built-in study, from the command line to its verdicts, at the scale of a quick look. Slow: `pytest -m slow`."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebatch.execution import Execution
from rebatch.study.plan import make_plan
from rebatch.study.studies import STUDIES
from rebatch.tasks import find_task

# What `--json` must have; more may be there.
DOCUMENT = {"study", "task", "scale", "arms", "candidates", "quantities", "claims", "runs"}
ARM = {"name", "n", "batch_size", "steps", "accuracy", "diverged"}
CLAIM = {"id", "statement", "source", "verdict", "effect", "expected", "unit"}


@pytest.fixture(autouse=True)
def _only_when_asked_for(request: pytest.FixtureRequest) -> None:
    if "slow" not in request.config.getoption("markexpr"):
        pytest.skip("takes minutes; run with -m slow")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_does_all_its_runs_and_judges_all_its_claims(name: str, tmp_path: Path) -> None:
    plan = make_plan(STUDIES[name], find_task(STUDIES[name].task), "quick", execution=Execution())
    command = [sys.executable, "-m", "rebatch", "study", "run", name, "--store", str(tmp_path / "store"), "--json"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    print(f"\n{name}: {seconds:.0f} s; {', '.join(each['id'] + ' ' + each['verdict'] for each in document['claims'])}")

    assert document.keys() >= DOCUMENT
    assert (document["study"], document["task"], document["scale"]) == (name, plan.task, "quick")
    runs = document["runs"]
    assert (runs["failed"], runs["reused"]) == (0, 0)
    arms = {arm["name"]: arm for arm in [*document["arms"], *document["candidates"]]}
    assert arms.keys() == {arm.name for arm in plan.design.arms}
    for arm in plan.design.arms:
        assert arms[arm.name]["n"] == (plan.design.seeds if arm.seeds is None else arm.seeds)
        assert arm.candidate or arms[arm.name].keys() >= ARM
        assert arm.candidate or (arms[arm.name]["accuracy"] is None) == (arm.probe is not None)
    kept = len(list((tmp_path / "store").glob("runs/*/result.json")))  # fewer than arms have: arms may share runs
    assert runs["done"] + runs["diverged"] == kept

    assert [each["id"] for each in document["claims"]] == [each.id for each in plan.design.claims]
    for claim in document["claims"]:
        assert claim.keys() >= CLAIM
        assert claim["verdict"] in {"confirmed", "refuted", "undecided"}
        assert isinstance(claim["effect"]["estimate"], float)
        assert not claim["note"].startswith("no ")  # no value, no outcome
    assert (tmp_path / "store" / "report").is_dir()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert json.loads(again.stdout)["runs"] == {**runs, "reused": kept}
