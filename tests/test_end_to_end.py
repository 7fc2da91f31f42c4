"""The main job on real data: `rebatch study run hoffer-gap --task digits`, with fewer seeds than the demo."""

import json
from pathlib import Path

import pytest

from rebatch.cli.main import run


def test_the_large_batch_loses_accuracy_and_regime_adaptation_brings_it_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    options = ["--task", "digits", "--seeds", "2", "--jobs", "2", "--store", str(store), "--json"]
    assert run(["study", "run", "hoffer-gap", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == {"done": 12, "diverged": 0, "failed": 0, "reused": 0}
    accuracy = {arm["name"]: arm["accuracy"]["mean"] for arm in document["arms"]}
    # Fixed seeds, so no luck is involved. Twenty seeds: 2.97 [2.42, 3.52], results/hoffer-gap/digits-mlp-cpu.json.
    assert accuracy["small_batch"] > 97
    assert accuracy["small_batch"] - accuracy["large_batch"] > 1
    assert accuracy["large_batch+lr"] > accuracy["large_batch"]
    assert abs(accuracy["large_batch+lr+gbn+ra"] - accuracy["small_batch"]) < 1
    assert {claim["id"] for claim in document["claims"]} == {"H1", "H2", "H3", "H4", "H5", "H4-control", "H21"}
    assert (store / "report" / "index.html").exists()
