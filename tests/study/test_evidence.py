"""What kept results say about the claims of the built-in studies."""

import json
from pathlib import Path
from typing import Any

import pytest

import rebatch
from rebatch.errors import RequestError
from rebatch.study.evidence import ClaimEvidence, evidence, results_folder
from rebatch.study.studies import STUDIES


def kept(folder: Path, task: str, scale: str, verdict: str, **changes: Any) -> None:
    """A result file of an early version: no units, no quantities."""
    effect = {"estimate": 1.0, "low": 0.5, "high": 1.5}
    claim = {"id": "H1", "statement": "old words", "verdict": verdict, "effect": effect, "expected": None, **changes}
    path = folder / "hoffer-gap" / f"{task.replace('/', '-')}-{scale}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"study": "hoffer-gap", "task": task, "scale": scale, "arms": [], "claims": [claim]}))


def h1(folder: Path) -> ClaimEvidence:
    study = next(study for study in evidence(folder) if study.name == "hoffer-gap")
    return next(claim for claim in study.claims if claim.id == "H1")


WIDTHS = dict.fromkeys(("P14", "P14-batch-statistics", "P23"), "cifar10/page-resnet18")
ELSEWHERE = {"H6": "imagenet/alexnet", **WIDTHS}


def test_without_results_every_claim_says_what_it_needs(tmp_path: Path) -> None:
    studies = evidence(tmp_path)
    assert [study.name for study in studies] == list(STUDIES)
    for study in studies:
        assert study.claims
        for claim in study.claims:
            assert (claim.verdict, claim.results, claim.all) == (None, None, ())
            elsewhere = ELSEWHERE.get(claim.id)  # another task than the study's own
            where = f"--task {elsewhere} --scale paper" if elsewhere else "--scale cpu"
            assert claim.needs == f"rebatch study run {study.name} {where}"


def test_a_larger_scale_and_then_the_papers_own_task_is_the_stronger_evidence(tmp_path: Path) -> None:
    order = [
        ("digits/mlp", "quick"),
        ("cifar10/resnet44", "quick"),
        ("digits/mlp", "cpu"),
        ("fashion-mnist/f1", "cpu"),
        ("mnist/f1", "cpu"),
        ("cifar10/resnet44", "cpu"),
        ("mnist/f1", "paper"),
    ]
    for task, scale in order:
        kept(tmp_path, task, scale, "refuted", expected=1.22 if task == "mnist/f1" else None)
        found = h1(tmp_path)
        assert (found.task, found.scale, found.verdict, found.needs) == (task, scale, "refuted", None)
    assert [(each.task, each.scale) for each in h1(tmp_path).all] == order[::-1]
    assert h1(tmp_path).expected == 1.22
    assert h1(tmp_path).results == f"{tmp_path}/hoffer-gap/mnist-f1-paper.json"
    assert h1(tmp_path).statement != "old words"  # statements are the design's


def test_a_claim_without_an_effect_is_no_evidence(tmp_path: Path) -> None:
    nothing = {"estimate": None, "low": None, "high": None}
    kept(tmp_path, "digits/mlp", "quick", "undecided", effect=nothing)
    found = h1(tmp_path)
    assert found.verdict is None
    assert len(found.all) == 1
    assert found.needs is not None
    assert "(results that leave it open: digits/mlp at scale quick)" in found.needs


def test_other_files_are_passed_over_and_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "loop.json").write_text("[1, 2]")
    assert h1(tmp_path).verdict is None
    kept(tmp_path, "digits/mlp", "cpu", "perhaps")
    with pytest.raises(RequestError, match=r"cannot read .*digits-mlp-cpu\.json: .*; write it again"):
        evidence(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--results .*absent is not a folder"):
        evidence(tmp_path / "absent")


def test_the_repositorys_results_are_read_and_those_in_the_package_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results_folder() == Path(__file__).parents[2] / "results"
    found = {study.name: study for study in evidence()}["hoffer-gap"].claims[0]
    assert (found.verdict, found.results) == ("confirmed", "results/hoffer-gap/mnist-f1-cpu.json")
    monkeypatch.setattr(rebatch, "__file__", str(tmp_path / "site-packages" / "rebatch" / "__init__.py"))
    assert results_folder() == tmp_path / "site-packages" / "rebatch" / "results"


UNDECIDED = {
    "parts": [{"test": {}, "effect": {}, "seeds": list(range(20))}],
    "smallest_detectable": 0.4321,
    "seeds_to_decide": 64,
    "unit": "AIC",
}
SEEN = "more seeds: 20 see an effect 0.43 AIC beyond the margin (with probability 0.8)"


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, f"{SEEN}; about 70 seeds would decide if the effect seen is the true one"),
        ({"seeds_to_decide": None}, f"{SEEN}; the effect seen lies so near its margin that not even 1,000 seeds"),
        ({"caveats": ["3 diverged runs are left out"]}, f"{SEEN}; about 70 seeds"),
        ({"premise": [{}], "caveats": ["its premise does not hold: loss"]}, "its premise does not hold: loss"),
        ({"smallest_detectable": None}, "more seeds, or a task on which they differ"),
    ],
)
def test_an_undecided_claim_says_what_would_decide_it(changes: dict[str, Any], needs: str, tmp_path: Path) -> None:
    kept(tmp_path, "digits/mlp", "cpu", "undecided", **(UNDECIDED | changes))
    found = h1(tmp_path)
    assert found.needs == found.all[0].needs
    assert (found.needs or "").startswith(needs)


def test_results_from_before_they_said_so_tell_what_their_seeds_resolve(tmp_path: Path) -> None:
    kept(
        tmp_path,
        "digits/mlp",
        "cpu",
        "undecided",
        **{name: value for name, value in UNDECIDED.items() if name != "seeds_to_decide"},
    )
    assert h1(tmp_path).needs == SEEN
    kept(tmp_path, "digits/mlp", "cpu", "confirmed", **UNDECIDED)
    assert h1(tmp_path).needs is None
