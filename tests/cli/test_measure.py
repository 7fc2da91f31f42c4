"""`rebatch measure` as its user meets it."""

import json
import re
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.cli.measure import SENTENCES
from rebatch.noise_course import whole_run
from rebatch.recipe import Epochs
from rebatch.recipe_file import write_recipe
from rebatch.tasks import TASKS


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(budget=Epochs(2)), path)
    return str(path)


def test_limits_are_printed_with_what_they_mean(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "limits", "--task", "digits", "--recipe", short]) == 0
    out = capsys.readouterr().out
    for part in ("learning rate (of the mean loss)", "0.025, at batch size 32, step 32", "branches break at", "epoch"):
        assert part in out
    assert out.splitlines()[-1] in SENTENCES.values()


def test_limits_as_one_json_document(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "limits", "--task", "digits", "--recipe", short, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["task"], found["lr"], found["verdict"] in SENTENCES) == ("digits/mlp", 0.025, True)
    assert found["breaks"]["low"] / found["lr"] == pytest.approx(found["room"])


def test_a_batch_too_large_to_see_forgetting_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(batch_size=512), path)
    assert run(["measure", "limits", "--task", "digits", "--recipe", str(path)]) == 2
    assert "got 2 of batch_size 512; use a batch size of at most 128" in capsys.readouterr().err


@pytest.fixture
def plain(tmp_path: Path) -> str:
    path = tmp_path / "plain.toml"
    write_recipe(TASKS["digits/mlp-plain"].recipe.replace(budget=Epochs(4)), path)
    return str(path)


def test_the_noise_scale_along_a_run_is_a_table(plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "noise-scale", "--task", "digits/mlp-plain", "--recipe", plain, "--looks", "3"]) == 0
    head, *rows, whole = capsys.readouterr().out.splitlines()
    assert whole.startswith("over the whole run ")
    assert whole.endswith(": what `rebatch transfer --noise-scale` takes")
    assert head.split() == ["step", "examples", "train", "loss", "noise", "scale,", "95", "%", "interval"]
    assert [row.split()[0] for row in rows] == ["43", "85", "128"]
    assert all("steps" in row for row in rows)


def test_the_noise_scale_as_one_json_document(plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--micro-batch-size", "8", "--looks", "2", "--json"]
    assert run(["measure", "noise-scale", "--task", "digits/mlp-plain", "--recipe", plain, *options]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    seen, ends = [look["noise_scale"] for look in found["looks"]], [look["examples"] for look in found["looks"]]
    shares = [ends[0], ends[1] - ends[0]]
    trace, square = (
        sum(share * each[name]["estimate"] for share, each in zip(shares, seen, strict=True))
        for name in ("trace", "square")
    )
    assert whole_run(captured.out.encode()).estimate == pytest.approx(trace / square)
    assert captured.err == ""
    assert [look["step"] for look in found["looks"]] == [64, 128]
    assert found["looks"][0]["noise_scale"]["low"] > 0


def test_a_model_with_batch_norm_has_no_noise_scale(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "noise-scale", "--task", "digits", "--recipe", short]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "couples the examples of a batch" in captured.err
    assert "ghost_batch_size in the recipe" in captured.err
    assert run(["measure", "noise-scale", "--task", "digits", "--recipe", short, "--norm", "l1"]) == 2
    assert "--norm must be euclidean or adam, got 'l1'" in capsys.readouterr().err


def test_the_critical_batch_size_is_printed_beside_the_noise_scale(
    plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--batch-size", "16", "--batch-size", "64", "--seeds", "2", "--branch-steps", "30"]
    command = ["measure", "critical-batch-size", "--task", "digits/mlp-plain", "--recipe", plain, *options]
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("branches start at step 26, validation loss ")
    assert [line.split()[0] for line in lines[2:4]] == ["16", "64"]
    assert lines[4].startswith("critical batch size  ")
    assert re.match(r"  fitted: steps = \S+ \(1 \+ \(\S+/batch size\)\^1\.4\)\^\(1/1\.4\), runs scatter by ", lines[5])
    assert lines[-1].startswith("noise scale          ")
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["branches"]) == 4
    assert (found["fit"]["runs"], found["fit"]["bend"]) == (4, 1.4)
