"""`rebatch train --continue`: another batch size from the middle of a run on, kept in a store, resumed, refused."""

import json
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rebatch.batching import total_steps
from rebatch.cli.main import run
from rebatch.cli.train_run import _goes_on
from rebatch.execution import Execution
from rebatch.recipe import AdamW, Epochs, Recipe
from rebatch.recipe_file import write_recipe
from rebatch.study.plan import Continued, RunSpec
from rebatch.study.store import Store
from rebatch.study.worker import Job, _attempt
from rebatch.tasks import TASKS
from rebatch.training import Checkpointer, train
from rebatch.transfer import transfer

TASK = TASKS["digits/mlp"]
SMALL = TASK.recipe.replace(budget=Epochs(2))
LARGE = transfer(SMALL, batch_size=256, rules="linear", examples=TASK.train).recipe


class KilledError(Exception):
    """What stops a run in the tests."""


class Place:
    """Where the tests keep recipes and stores, and `rebatch train` as they call it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._patch, self._capsys = folder, patch, capsys

    def command(self, recipe: Recipe, store: str, *options: str) -> list[str]:
        path = self.folder / "recipe.toml"
        write_recipe(recipe, path)
        where = ["--task", "digits/mlp", "--threads", "1", "--store", str(self.folder / store)]
        return ["train", str(path), *where, *options]

    def train(self, recipe: Recipe, store: str, *options: str) -> dict[str, Any]:
        """What it says on success."""
        assert run([*self.command(recipe, store, *options), "--json"]) == 0
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found

    def refused(self, recipe: Recipe, store: str, *options: str) -> str:
        """The line that it says."""
        assert run(self.command(recipe, store, *options)) == 2
        *_, line = self._capsys.readouterr().err.splitlines()
        return line

    def killed(self, recipe: Recipe, store: str, *options: str, rows: int) -> None:
        """A run that saved every step and died after so many rows."""
        count = 0

        def dying(*args: Any, checkpoint: Checkpointer, **numbers: Any) -> Any:
            nonlocal count
            for row in train(*args, checkpoint=Checkpointer(checkpoint.path, seconds=0.0), **numbers):
                if (count := count + 1) > rows:
                    raise KilledError
                yield row

        self._patch.setattr("rebatch.study.execute.train", dying)
        assert run(self.command(recipe, store, *options)) == 1
        self._patch.setattr("rebatch.study.execute.train", train)
        self._capsys.readouterr()

    def specs(self, store: str) -> list[RunSpec]:
        return [folder.spec() for folder in Store(self.folder / store).runs()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, monkeypatch, capsys)


def test_a_run_goes_on_at_another_batch_size_in_a_store_of_its_own_or_in_the_same_one(place: Place) -> None:
    place.killed(SMALL, "old", rows=14)
    (small,) = place.specs("old")
    kept = Store(place.folder / "old").run(small).rows()
    options = ["--continue", str(place.folder / "old")]
    found = place.train(LARGE, "new", *options)
    (large,) = place.specs("new")
    assert large.continues is not None
    assert (large.continues.spec, large.recipe) == (small, LARGE.as_tuned())
    steps = large.continues.steps
    assert found["rows"][: len(kept)] == [row for row in kept if row["step"] <= steps]
    rest = found["rows"][len(kept) :]
    seen = kept[-1]["examples"] - (kept[-1]["step"] - steps) * SMALL.batch_size
    assert rest[0]["step"] == steps + 1
    assert rest[0]["examples"] - seen in {256, (TASK.train - seen) % 256}
    assert found["rows"][-1]["examples"] == 2 * TASK.train
    assert found["accuracy"] > 80
    # The same command knows it; in the store of the old run it is the same run; there too it is known.
    assert place.train(LARGE, "new", *options) == found
    for _ in range(2):
        assert place.train(LARGE, "old", *options)["rows"] == found["rows"]
    assert {spec.run_id for spec in place.specs("old")} == {small.run_id, large.run_id}


def test_a_continued_run_that_is_killed_goes_on_by_the_same_command(place: Place) -> None:
    place.killed(SMALL, "old", rows=14)
    options = ["--continue", str(place.folder / "old")]
    whole = place.train(LARGE, "whole", *options)
    place.killed(LARGE, "old", *options, rows=3)
    assert place.train(LARGE, "old", *options)["rows"] == whole["rows"]


def test_continued_by_its_own_recipe_a_run_is_what_it_would_have_been(place: Place) -> None:
    whole = place.train(SMALL, "whole")
    place.killed(SMALL, "old", rows=14)
    found = place.train(SMALL, "new", "--continue", str(place.folder / "old"))
    assert (found["rows"], found["accuracy"]) == (whole["rows"], whole["accuracy"])


def test_a_given_noise_scale_is_part_of_what_the_run_is(place: Place) -> None:
    small = SMALL.replace(optimizer=AdamW(lr=0.001))
    large = transfer(small, batch_size=256, rules=["sqrt_lr"], examples=TASK.train).recipe
    place.killed(small, "old", rows=14)
    old = ["--continue", str(place.folder / "old")]
    plain = place.train(large, "new", *old)
    known = place.train(large, "new", *old, "--noise-scale", "40")
    assert known["rows"][-1]["train_loss"] != plain["rows"][-1]["train_loss"]
    assert place.train(large, "new", *old, "--noise-scale", "40") == known
    specs = [spec for spec in place.specs("new") if spec.continues is not None]
    assert {spec.continues.noise_scale for spec in specs if spec.continues is not None} == {None, 40.0}
    assert len({spec.run_id for spec in specs}) == 2
    assert "--noise-scale says how a state is carried over, and goes" in place.refused(large, "x", "--noise-scale", "4")
    assert "noise_scale must be positive, got 0" in place.refused(large, "x", *old, "--noise-scale", "0")


def test_what_cannot_be_continued_is_told_in_one_line(place: Place) -> None:
    place.killed(SMALL, "old", rows=14)
    old = ["--continue", str(place.folder / "old")]
    (small,) = place.specs("old")
    folder = Store(place.folder / "old").run(small)
    for recipe, options, line in (
        (LARGE, ["--seed", "3"], "the earlier run has seed 0, this one 3; go on with --seed 0"),
        (LARGE, ["--precision", "float64"], "has precision float32, this one float64; go on with --precision float32"),
        (LARGE, ["--task", "digits/mlp-plain"], "has task digits/mlp, this one digits/mlp-plain; go on with --task"),
        (SMALL.replace(optimizer=AdamW(lr=0.01)), [], "a run by optimizer 'sgd' cannot go on by 'adamw'"),
        (
            LARGE.replace(budget=Epochs(0.2)),
            [],
            "budget of 0.2 epochs, which is that of the whole run, is spent by then",
        ),
    ):
        assert line in place.refused(recipe, "new", *old, *options)
    with folder.held():
        assert "another process still trains the run in" in place.refused(LARGE, "new", *old)
    assert f"{place.folder} is not a store of runs" in place.refused(LARGE, "new", "--continue", str(place.folder))
    place.killed(SMALL.with_lr(0.01), "old", rows=3)
    assert "has 2 runs of task 'digits/mlp' with seed 0 to go on from; name one: --continue" in place.refused(
        LARGE, "new", *old
    )
    assert place.train(LARGE, "new", "--continue", str(folder.path))["status"] == "done"
    folder.checkpoint.unlink()
    assert "has no checkpoint; it writes one every minute" in place.refused(
        LARGE, "new", "--continue", str(folder.path)
    )
    place.train(SMALL, "done")
    assert "is finished" in place.refused(LARGE, "new", "--continue", str(place.folder / "done"))
    measured = Store(place.folder / "old").begin(replace(small, finals=("train_evaluation",)))
    measured.checkpoint.write_bytes(b"")
    assert "is one of a study" in place.refused(LARGE, "new", "--continue", str(measured.path))


def test_a_damaged_checkpoint_is_told_in_one_line_and_fails_its_own_run_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.killed(SMALL, "old", rows=3)
    (small,) = place.specs("old")
    checkpoint = Store(place.folder / "old").run(small).checkpoint
    whole = checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        checkpoint.write_bytes(damaged)
        for recipe, options in ((SMALL, []), (LARGE, ["--continue", str(place.folder / "old")])):
            assert run(place.command(recipe, "old", *options)) == 1
            line = (
                f"the checkpoint {checkpoint} is damaged, unless memory is short; delete it, and its run starts again"
            )
            assert capsys.readouterr().err == f"rebatch: {line}\n"
    ours, _ = Pipe()
    told = _attempt(Job(small, small.task, None, place.folder / "old"), ours, {})
    assert (told.kind, "is damaged" in told.text) == ("failed", True)
    checkpoint.unlink()
    assert place.train(SMALL, "old")["status"] == "done"


def test_the_id_of_a_continued_run_follows_from_both_recipes_and_the_place() -> None:
    small = RunSpec(task="digits/mlp", recipe=SMALL, seed=0, execution=Execution())
    large = RunSpec(task="digits/mlp", recipe=LARGE, seed=0, continues=Continued(small, 7))
    others = [
        replace(large, continues=None),
        replace(large, continues=Continued(small, 8)),
        replace(large, continues=Continued(replace(small, recipe=SMALL.with_lr(0.03)), 7)),
        replace(large, continues=Continued(replace(small, execution=Execution(compile=True)), 7)),
        replace(large, recipe=LARGE.with_lr(0.03)),
        replace(large, continues=Continued(large, 7)),
    ]
    assert len({spec.run_id for spec in [large, *others]}) == 1 + len(others)
    tuned = replace(large, continues=Continued(replace(small, recipe=SMALL.replace(tuned=SMALL.with_lr(1.0))), 7))
    assert tuned.run_id == large.run_id
    assert large.start(TASK.train) == (7, 0, 7 * SMALL.batch_size, 7 * SMALL.batch_size)


def test_a_longer_budget_is_told_to_move_the_schedule_back() -> None:
    """After one epoch of two, by a recipe for two and by one for eight."""
    small = RunSpec(task="digits/mlp", recipe=SMALL, seed=0)
    before = Continued(small, total_steps(SMALL.replace(budget=Epochs(1)), TASK.train))
    large = RunSpec(task="digits/mlp", recipe=LARGE, seed=0, continues=before)
    where = f"goes on after {before.steps} steps and {TASK.train:,} examples, at "
    assert _goes_on(large, before, TASK.train) == f"{where}50.0% of the budget"
    longer = replace(large, recipe=LARGE.replace(budget=Epochs(8)))
    assert _goes_on(longer, before, TASK.train) == f"{where}12.5% of the budget (it was 50.0%, so the schedule jumps)"
