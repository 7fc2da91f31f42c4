"""`text/char-lm`: windows of the user's text, its identity in a run, the model, and the commands, in tokens."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from rebatch.cli.main import run
from rebatch.data.text import count_windows, load_windows
from rebatch.errors import RequestError
from rebatch.knee import language_model_knee
from rebatch.models.transformer import Transformer
from rebatch.recipe import Epochs, Steps
from rebatch.recipe_file import read_recipe, to_table, write_recipe
from rebatch.tasks import TASKS, find_task
from rebatch.tasks.find import file_digest, run_digest
from rebatch.tasks.text import char_lm
from rebatch.training import train
from texts import lay_out, made_text
from toy import toy_transformer

TASK = TASKS["text/char-lm"]


def test_windows_are_followed_by_the_byte_to_predict_and_do_not_overlap(tmp_path: Path) -> None:
    texts = tmp_path / "a.txt", tmp_path / "b.txt"
    texts[0].write_bytes(bytes(range(100)))
    texts[1].write_bytes(bytes(range(100, 152)))
    splits = load_windows(texts, 7)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [17, 2, 2]
    parts = [splits.train, splits.validation, splits.test]
    assert torch.cat([part.inputs for part in parts]).flatten().tolist() == list(range(147))
    for part in parts:
        assert torch.equal(part.targets, part.inputs.long() + 1)
    assert count_windows(texts, 7) == (17, 2, 2)


def test_a_text_that_is_missing_or_short_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"no text in {tmp_path}/text; put any .txt files there"):
        TASK.sized(tmp_path)
    lay_out(tmp_path, words=20)
    with pytest.raises(RequestError, match=r"the 2 texts in .*/text must hold at least 193 bytes, .* got 1\d\d"):
        TASK.sized(tmp_path)
    with pytest.raises(RequestError, match=r"none.txt cannot be read: No such file or directory"):
        char_lm("text/mine", [tmp_path / "none.txt"]).data()


def test_the_text_is_part_of_a_runs_identity(tmp_path: Path) -> None:
    first, again = (TASK.sized(lay_out(tmp_path / name)) for name in "ab")
    assert first.digest == again.digest == run_digest("text/char-lm", first) != ""
    (tmp_path / "b" / "text" / "0.txt").write_text("?" + made_text(200)[1:])
    changed = TASK.sized(tmp_path / "b")
    assert changed.digest != first.digest
    assert (changed.train, changed.validation, changed.test) == (first.train, first.validation, first.test)
    mine = tmp_path / "mine.py"
    mine.write_text("")
    digests = {run_digest(f"{mine}:lm", first), run_digest(f"{mine}:lm", changed), file_digest(f"{mine}:lm")}
    assert len(digests) == 3
    assert run_digest(f"{mine}:lm", TASKS["digits/mlp"]) == file_digest(f"{mine}:lm")
    assert TASKS["digits/mlp"].sized(tmp_path) is TASKS["digits/mlp"]
    with pytest.raises(RequestError, match="promises splits of"):
        dataclasses.replace(first, sizes=None, train=7).data(0, tmp_path / "a")


def test_a_position_sees_itself_and_what_comes_before_alone() -> None:
    model, text = toy_transformer(), torch.arange(14).reshape(2, 7)
    logits = model(text)
    assert logits.shape == (2, 256, 7)
    for place in range(7):
        other = text.clone()
        other[:, place] += 100
        same = (model(other) == logits).all(1)
        assert same[:, :place].all()
        assert not same[:, place:].any()
    torch.testing.assert_close(model(text[:, :3]), logits[:, :, :3])


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(RequestError, match="width must be a multiple of heads=3, got 7; try 6"):
        Transformer(length=5, width=7, layers=1, heads=3)


def test_it_learns_made_text(tmp_path: Path) -> None:
    """Most letters of a word follow from those before; a guess hits 1 of 256 bytes at 5.5 nats."""
    data_dir = lay_out(tmp_path, words=2000)
    data, model = TASK.data(0, data_dir), TASK.model(0)
    *_, row = train(model, data, TASK.recipe.replace(budget=Steps(60)), seed=0, evaluations=1)
    assert row["validation_loss"] < 2.0
    assert row["validation_accuracy"] > 40.0
    assert row["tokens"] == 64 * row["examples"]


def test_the_commands_count_in_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir, recipe = lay_out(tmp_path), tmp_path / "recipe.toml"
    write_recipe(TASK.recipe.replace(budget=Epochs(1)), recipe)
    options = ["--task", "text", "--data-dir", str(data_dir)]
    assert run(["train", str(recipe), *options, "--store", str(tmp_path / "store")]) == 0
    assert "tokens/s" in capsys.readouterr().err
    moved = tmp_path / "moved.toml"
    transfer = ["transfer", str(recipe), "--batch-size", "32", "--tokens", "1e6", "--output", str(moved)]
    assert run([*transfer, *options]) == 0
    assert "batches in tokens, 64 an example: 1,024 -> 2,048" in capsys.readouterr().out
    factor = language_model_knee(1e6).factor(1024, 2048)
    assert read_recipe(moved).optimizer.lr == pytest.approx(TASK.recipe.optimizer.lr * factor, rel=1e-12)
    by_length = [*transfer, "--tokens-per-example", "64", "--json"]
    assert run(by_length) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == to_table(read_recipe(moved))
    assert run([*transfer, *options, "--tokens-per-example", "63"]) == 2
    assert "is 63, and an example of text/char-lm has 64 tokens; leave it out" in capsys.readouterr().err


def test_without_its_text_a_transfer_gives_factors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    write_recipe(TASK.recipe, recipe)
    command = ["transfer", str(recipe), "--batch-size", "32", "--task", "text", "--data-dir", str(tmp_path)]
    assert run(command) == 0
    assert "the number of examples is not known: no text in" in capsys.readouterr().err
    assert run([*command, "--rules", "same_steps"]) == 2


def test_a_task_of_ones_own_reads_the_texts_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, recipe = tmp_path / "verse.txt", tmp_path / "recipe.toml"
    text.write_text(made_text(300))
    (tmp_path / "mine.py").write_text(
        f"from rebatch.tasks.text import char_lm\nverse = char_lm('text/verse', [{str(text)!r}], length=32, width=16)\n"
    )
    write_recipe(TASK.recipe.replace(budget=Steps(2)), recipe)
    reference = f"{tmp_path / 'mine.py'}:verse"
    task = find_task(reference).sized()
    assert (task.tokens_per_example, task.validation) == (32, round(0.1 * ((text.stat().st_size - 1) // 32)))
    assert run(["train", str(recipe), "--task", reference, "--json", "--store", str(tmp_path / "store")]) == 0
    first = json.loads(capsys.readouterr().out)
    text.write_text(made_text(300, seed=1))
    assert run(["train", str(recipe), "--task", reference, "--json", "--store", str(tmp_path / "store")]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] != first["rows"]  # another text is another run
