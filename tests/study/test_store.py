import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rebatch.errors import RequestError, RunError
from rebatch.execution import Execution
from rebatch.study.plan import RunSpec, make_plan
from rebatch.study.store import Result, Store, pack
from rebatch.study.studies import STUDIES
from rebatch.tasks import TASKS

SPEC = RunSpec(task="digits/mlp", recipe=TASKS["digits/mlp"].recipe, seed=0)


def test_a_result_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    hits = np.random.default_rng(0).random(517) < 0.9
    result = Result(
        status="done", steps=7, accuracy=100 * float(hits.mean()), test_loss=0.1, correct=pack(hits), test_examples=517
    )
    folder = Store(tmp_path / "store", create=True).begin(SPEC)
    assert folder.result() is None
    folder.finish(result)
    found = Store(tmp_path / "store").run(SPEC).result()
    assert found == result
    np.testing.assert_array_equal(result.hits(), hits)


@pytest.mark.parametrize("torn", [b'{"step":8,"trai', b'{"step":8,"\xff":1}'])
def test_a_torn_last_row_is_left_out_and_rows_after_the_checkpoint_are_forgotten(tmp_path: Path, torn: bytes) -> None:
    folder = Store(tmp_path, create=True).begin(SPEC)
    for step in (1, 2, 4):
        folder.append({"step": step, "train_loss": 0.5})
    with (folder.path / "rows.jsonl").open("ab") as file:
        file.write(torn)
    assert [row["step"] for row in folder.rows()] == [1, 2, 4]
    folder.keep_rows(2)
    folder.append({"step": 4, "train_loss": float("nan")})
    assert [row["step"] for row in folder.rows()] == [1, 2, 4]
    assert np.isnan(folder.rows()[-1]["train_loss"])


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    with store.begin(SPEC).held() as ours:
        assert ours
        with store.run(SPEC).held() as second:
            assert not second
    with store.run(SPEC).held() as again:
        assert again


def test_a_store_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    newer = '{"format": 2, "made_by": "rebatch 9"}'
    (tmp_path / "store.json").write_text(newer)
    with pytest.raises(RequestError, match="has format 2, this rebatch reads format 1; use a newer rebatch"):
        Store(tmp_path, create=True)
    assert (tmp_path / "store.json").read_text() == newer


@pytest.mark.parametrize("marker", ["", "{}", '{"format": 0}', '{"format": "one"}', "[1]"])
def test_the_advice_on_a_damaged_store_mends_it(marker: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "a store", create=True)
    store.begin(SPEC)
    (store.root / "store.json").write_text(marker)
    with pytest.raises(RequestError, match=r"store\.json is damaged: .*; if its folder is a store of runs") as raised:
        Store(store.root)
    subprocess.run(str(raised.value).split("mend it: ")[1], shell=True, check=True)
    assert Store(store.root).run(SPEC).path.exists()


def test_the_traceback_of_a_failed_run_lies_in_its_folder_until_the_run_is_done(tmp_path: Path) -> None:
    folder = Store(tmp_path, create=True).begin(SPEC)
    assert folder.keep_error("Traceback").read_text() == "Traceback"
    folder.finish(Result(status="done", steps=1, accuracy=50.0))
    assert sorted(path.name for path in folder.path.iterdir()) == ["result.json", "spec.json"]


def test_a_row_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    folder = Store(tmp_path, create=True).begin(SPEC)
    (folder.path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as raised:
        folder.append({"step": 1.0})
    assert raised.value.filename == str(folder.path / "rows.jsonl")


def test_a_plan_that_is_there_already_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, create=True)
    plan = make_plan(STUDIES["hoffer-gap"], TASKS["digits/mlp"], "quick", execution=Execution(), command="one")
    store.save_plan(plan)
    monkeypatch.setattr("rebatch.study.store.write_whole", None)
    store.save_plan(msgspec.structs.replace(plan, command="the same in other words"))
    assert store.plans() == [plan]


def test_places_that_cannot_be_a_store_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a store of runs"):
        Store(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is a file, not a folder"):
        Store(tmp_path / "file", create=True)
    with pytest.raises(RequestError, match="a folder with other things in it"):
        Store(tmp_path, create=True)
    with pytest.raises(RunError, match="cannot make a store in"):
        Store(Path("/proc/rebatch"), create=True)


@pytest.mark.parametrize("damaged", [b'{"status": "perhaps"}', b'{"status": "\xff"}'])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, damaged: bytes) -> None:
    folder = Store(tmp_path, create=True).begin(SPEC)
    (folder.path / "result.json").write_bytes(damaged)
    with pytest.raises(RequestError, match=r"cannot read .*result\.json: .*; delete it"):
        folder.result()
