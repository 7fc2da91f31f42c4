"""`rebatch measure throughput` as its user meets it; but for two tests, with a scripted process."""

import json
from functools import partial
from pathlib import Path

import pytest

from rebatch.cli.main import run
from rebatch.recipe_file import write_recipe
from rebatch.study import capacity
from rebatch.study.capacity_process import Prober
from rebatch.tasks import TASKS
from study.scripted import work

HUNGRY = Path(__file__).parents[1] / "study" / "hungry.py"
COMMAND = ["measure", "throughput", "--threads", "1"]


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(capacity, "Prober", partial(Prober, target=partial(work, script=script)))


def test_a_table_and_what_it_means(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scripted(monkeypatch, "full beyond 100")
    assert run([*COMMAND, "--task", "digits", "--largest"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("digits/mlp on made up, float32; memory limit 1 GB, of which 1 MB are taken")
    assert lines[2].split() == ["micro_batch_size", "examples/s", "ms", "a", "step", "memory", "fits"]
    assert lines[9].split() == ["64", "3,556", "[3,556,", "3,556]", "18", "64", "kB", "yes"]
    assert lines[10].split() == ["128", "-", "-", "-", "no"]
    assert lines[11].split() == ["256", "-", "-", "-", "not", "tried"]
    assert "128 does not fit: MemoryError" in lines
    assert any(line.startswith("A micro-batch takes 1 [1, 1] ms, and 0.25 [0.25, 0.25] ms for each") for line in lines)
    assert "Examples per second still grow at 64, the largest size that was timed. Larger sizes do not fit" in lines[-2]
    assert lines[-1].startswith(
        "The largest micro-batch that fits within 1 GB is 100; 102 does not fit (tried: 1, 2, 4"
    )
    assert captured.err.splitlines()[1] == "micro_batch_size 1 fits in 1 kB"


def test_where_larger_is_no_faster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scripted(monkeypatch, "kind")
    assert run([*COMMAND, "--task", "digits", "--sizes", "8,64", "--sizes", "512", "--largest"]) == 0
    out = capsys.readouterr().out
    assert "Examples per second stop growing at a micro-batch of 64, within 10 % of the best.\n" in out
    assert "The largest micro-batch, the whole training set of 1,000, fits within 1 GB" in out


def test_one_json_document_of_a_real_measurement(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    write_recipe(TASKS["digits/mlp"].recipe.replace(batch_size=64, ghost_batch_size=16), recipe)
    options = ["--task", "digits", "--recipe", str(recipe), "--sizes", "32,16", "--memory-limit", "1GB"]
    assert run([*COMMAND, *options, "--json"]) == 0
    captured = capfd.readouterr()
    found = json.loads(captured.out)
    assert captured.err.startswith("digits/mlp: float32, in a process of its own\nmicro_batch_size 16 fits in ")
    assert found["task"] == "digits/mlp"
    assert found["execution"] == {"precision": "float32", "memory_format": "contiguous", "compile": False}
    assert (found["limit"], found["unit"], found["plain_batch_norm"], found["examples"]) == (10**9, 16, False, 1024)
    assert (found["ended"], found["largest"], found["rounds"]) == ("given", None, 15)
    assert found["full_speed"] in {16, 32}
    assert "torch" in found["environment"]
    assert set(found["fit"]) == {"fixed", "per_example", "misfit"}
    for size in found["sizes"]:
        assert size["outcome"] == "fits"
        assert size["memory"] >= 0
        for interval in (size["seconds"], size["examples_per_second"], found["update_seconds"]):
            assert 0.0 < interval["low"] <= interval["estimate"] <= interval["high"]
    assert [size["micro_batch_size"] for size in found["sizes"]] == [16, 32]


def test_an_error_of_the_users_model_ends_in_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--task", f"{HUNGRY}:failing"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a model that prints" in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("rebatch: ZeroDivisionError: my bug (")
    assert "hungry.py:" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "many"], "--sizes must be whole numbers, such as 16,32, got 'many'"),
        (["--sizes", "0"], "micro_batch_size must be a positive multiple of ghost_batch_size=1, got 0; try 1"),
        (["--sizes", "1001"], "at most the number of training examples, 1000, got 1001"),
        (["--memory-limit", "much"], "an amount of memory is written like 4GB, 512MB or 2GiB, got 'much'"),
        (["--precision", "float8"], "--precision 'float8' is unknown"),
    ],
)
def test_a_wrong_request_ends_in_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, "kind")
    assert run([*COMMAND, "--task", "digits", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_more_memory_than_there_is_cannot_be_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--task", "digits", "--memory-limit", "1000TB"]) == 2
    assert "the memory limit must be at most what is free now, " in capfd.readouterr().err.splitlines()[-1]
