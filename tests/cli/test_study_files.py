"""`rebatch study list`, `export` and `import` as their user meets them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.study.studies import STUDIES

STUDY = f"{Path(__file__).parents[1] / 'study' / 'small_study.py'}:small"


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("stores") / "one"
    command = ["study", "run", STUDY, "--task", "digits", "--store", str(store), "--jobs", "1", "--seeds", "1"]
    assert run(command) == 0
    return store


def test_a_study_goes_on_elsewhere_from_what_was_exported(
    one_seed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, there = tmp_path / "results", tmp_path / "two"
    assert run(["study", "export", str(one_seed), "--output", str(results)]) == 0
    names = ["digits-mlp-quick.json", "digits-mlp-quick.runs.jsonl", "digits-mlp-quick.svg"]
    assert capsys.readouterr().out.splitlines() == [f"{results}/small/{name}" for name in names]
    kept = json.loads((results / "small" / names[0]).read_text())
    assert (kept["study"], kept["runs"]["done"], kept["arms"][0]["seeds"]) == ("small", 2, [0])
    assert {"date", "processor", "commit", "device"} <= kept["environments"][0].keys()

    assert run(["study", "import", str(results / "small" / names[1]), "--store", str(there)]) == 0
    assert "small-digits-mlp-quick: 3 runs imported, 0 were in" in capsys.readouterr().out
    assert run(["study", "show", str(there), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"] == kept["arms"]
    assert run(["study", "run", STUDY, "--task", "digits", "--store", str(there), "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "3 of 6 runs to do" in err
    assert "4 runs done, 2 diverged, 0 failed, 3 reused" in out
    assert run(["study", "import", str(results / "small" / names[1]), "--store", str(there)]) == 0
    assert f"{there} has a plan small-digits-mlp-quick of its own, which stays" in capsys.readouterr().err


def test_exporting_twice_writes_the_same_bytes(one_seed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(["study", "export", str(one_seed), "--output", str(tmp_path / name)]) == 0
    first, second = ([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in ("a", "b"))
    assert first == second
    assert len(first) == 3


def test_without_matplotlib_the_numbers_are_exported_and_the_way_out_is_told(
    one_seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["study", "export", str(one_seed), "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "no figures: matplotlib is not installed; `pip install 'rebatch[figures]'` brings it\n"


def test_missing_runs_and_runs_with_other_numbers_are_told(
    one_seed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(one_seed, tmp_path / "store")
    assert run(["study", "export", str(store), "--output", str(tmp_path)]) == 0
    result = next(store.glob("runs/*/result.json"))
    changed = re.sub(r'"accuracy":[\d.]+', '"accuracy":12.5', result.read_text())
    result.write_text(changed)
    capsys.readouterr()
    file = tmp_path / "small" / "digits-mlp-quick.runs.jsonl"
    assert run(["study", "import", str(file), "--store", str(store)]) == 0
    assert "1 runs (seeds 0) are in" in capsys.readouterr().err
    assert result.read_text() == changed
    result.unlink()
    assert run(["study", "export", str(store), "--output", str(tmp_path)]) == 0
    assert "1 of 3 runs are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "export", "absent"], "absent is not a store of runs"),
        (["study", "export", "STORE", "--published", "absent.csv"], "--published absent.csv cannot be read"),
        (["study", "export", "STORE", "--published", "columns.csv"], "has no column 'iteration'"),
        (["study", "export", "STORE", "--published", "words.csv"], "row 1 is no curve's point"),
        (["study", "export", "STORE", "--output", "columns.csv"], "columns.csv is a file, not a folder"),
        (["study", "import", "absent", "--store", "s"], "no file absent"),
        (["study", "import", "columns.csv", "--store", "s"], "columns.csv holds no runs of a study"),
        (["study", "import", "columns.csv"], "--store"),
        (["study", "list", "--results", "absent"], "--results absent is not a folder"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    one_seed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "columns.csv").write_text("# a comment\npanel,batch\na,64\n")
    (tmp_path / "words.csv").write_text("panel,batch,iteration,distance\na,64,far,1.0\n")
    assert run([str(one_seed) if argument == "STORE" else argument for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rebatch: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "s").exists()


def test_study_list_says_what_every_claim_has_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"studies", "tasks"}
    assert [study["name"] for study in document["studies"]] == list(STUDIES)
    fields = {"id", "statement", "expected", "verdict", "scale", "task", "results", "needs", "all"}
    for study in document["studies"]:
        assert study.keys() == {"name", "source", "title", "claims"}
        for claim in study["claims"]:
            assert claim.keys() == fields
            if claim["verdict"] != "undecided":  # which may need more seeds, or a premise that holds
                assert (claim["verdict"] is None) == (claim["needs"] is not None)
    assert run(["study", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"H1 +At equal epochs .* confirmed +mnist/f1, cpu +results/hoffer-gap/mnist-f1-cpu\.json", out)
    assert "tasks: digits/mlp, " in out


def test_study_list_and_export_start_without_torch(one_seed: Path, tmp_path: Path) -> None:
    for arguments in (["study", "list"], ["study", "export", str(one_seed), "--output", str(tmp_path)]):
        code = f"import sys; from rebatch.cli.main import run; s = run({arguments!r}); print(s, 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 False"


def test_studies_are_listed_by_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "list", "--json", "--source", "page"]) == 0
    found = json.loads(capsys.readouterr().out)["studies"]
    assert [study["name"] for study in found] == [name for name in STUDIES if name.startswith("page-")]
    assert run(["study", "list", "--source", "pgae"]) == 2
    known = "they begin with Hoffer, Mini-batches, Page 2018"
    assert f"no study's source begins with 'pgae'; {known}" in capsys.readouterr().err
