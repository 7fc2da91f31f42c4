from pathlib import Path
from types import FunctionType

import pytest
import torch

from rebatch.data.sets import DataSet, Splits
from rebatch.errors import RequestError
from rebatch.tasks import TASKS, Task, find_task
from rebatch.tasks.find import describe, file_digest, load_from_file


def parameters(task: Task) -> int:
    return sum(parameter.numel() for parameter in task.model().parameters())


def test_f1_has_the_published_number_of_parameters() -> None:
    assert parameters(TASKS["mnist/f1"]) == parameters(TASKS["fashion-mnist/f1"]) == 1_462_794


@pytest.mark.parametrize("name", TASKS)
def test_a_model_depends_on_the_seed_and_the_data_alone_and_leaves_torchs_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before, data = torch.get_rng_state(), few_images() if TASKS[name].prepare else None
    first, again, other = (TASKS[name].model(seed, data) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    weights = ([weight for weight in model.parameters() if weight.requires_grad] for model in (first, other))
    assert any(not torch.equal(a, b) for a, b in zip(*weights, strict=True))


def few_images() -> Splits:
    numbers = torch.Generator().manual_seed(0)
    data = DataSet(torch.rand(5, 3, 32, 32, generator=numbers), torch.zeros(5, dtype=torch.int64))
    return Splits(data, data, data)


def test_the_seed_draws_the_split_of_digits_and_no_example_is_in_two_parts() -> None:
    task = TASKS["digits/mlp"]
    splits = [task.data(seed) for seed in (0, 0, 1)]
    assert torch.equal(splits[0].test.inputs, splits[1].test.inputs)
    assert not torch.equal(splits[0].test.inputs, splits[2].test.inputs)
    parts = (splits[0].train, splits[0].validation, splits[0].test)
    assert [len(part) for part in parts] == [1024, 256, 517]
    rows = {tuple(row.tolist()) for part in parts for row in part.inputs}
    assert len(rows) == 1797  # scikit-learn's digits hold no image twice, so any overlap would show
    assert torch.cat([part.inputs for part in parts]).max() == 1.0


def test_names_may_be_short_where_they_are_unique() -> None:
    assert find_task("digits") is find_task("digits/mlp") is TASKS["digits/mlp"]
    assert find_task("fashion-mnist") is TASKS["fashion-mnist/f1"]
    assert find_task("digits/mlp-plain") is TASKS["digits/mlp-plain"]  # a variant does not make the name ambiguous
    assert find_task("cifar10/proxy-half") is TASKS["cifar10/proxy-half"]
    with pytest.raises(RequestError) as caught:
        find_task("cifar10")
    assert "cifar10/page-resnet18 or" in str(caught.value)  # a hyphen alone makes no variant
    assert "-half" not in str(caught.value)
    with pytest.raises(RequestError, match="'cifar100' could be cifar100/c3 or cifar100/wrn16-4; name one of them"):
        find_task("cifar100")
    with pytest.raises(RequestError, match="no task named 'mnst/f1'; did you mean 'mnist/f1'"):
        find_task("mnst/f1")


def test_a_task_has_other_recipes_by_name() -> None:
    found = {task.name: list(task.regimes) for task in TASKS.values() if task.regimes}
    assert found == {
        "cifar10/c1": ["code"],
        "cifar10/resnet44": ["planned"],
        "cifar10/page-resnet18": ["batch-512"],
        "cifar10/page-resnet18-half": ["batch-512"],
        "cifar10/page-resnet18-double": ["batch-512"],
        "cifar100/c3": ["code"],
    }
    for name, (regime,) in found.items():
        task = TASKS[name]
        assert task.regime(regime) != task.recipe
        # Only a name that says so has another batch size.
        assert task.regime(regime).batch_size == (512 if regime == "batch-512" else task.recipe.batch_size)
    with pytest.raises(RequestError, match=r"task cifar10/c1 has no regime 'coed', it has code; leave it out for the"):
        TASKS["cifar10/c1"].regime("coed")
    with pytest.raises(RequestError, match=r"task mnist/f1 has no regime 'code', it has none; leave it out for the"):
        TASKS["mnist/f1"].regime("code")
    assert len({TASKS["cifar10/c1"], TASKS["cifar100/c3"]}) == 2  # a task can be looked up in a set or a dict


def user_file(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_users_file_is_run_once_asked_and_its_faults_are_one_line(tmp_path: Path) -> None:
    path = user_file(tmp_path, "from rebatch.tasks import TASKS\nmine = TASKS['digits/mlp']\nnumber = 3\n")
    assert load_from_file(f"{path}:mine", Task) is TASKS["digits/mlp"]
    with pytest.raises(RequestError, match="has no 'mien'; did you mean 'mine'"):
        find_task(f"{path}:mien")
    with pytest.raises(RequestError, match="must be a rebatch Task, it is a int"):
        find_task(f"{path}:number")
    with pytest.raises(RequestError, match=r"cannot be run: SystemExit: 3 \(.*mine.py:1\)"):
        find_task(f"{user_file(tmp_path, 'raise SystemExit(3)')}:mine")
    with pytest.raises(RequestError, match=r"cannot be run: ZeroDivisionError: division by zero \(.*mine.py:1\)"):
        find_task(f"{user_file(tmp_path, '1 / 0')}:mine")
    with pytest.raises(RequestError, match="cannot be run: SyntaxError"):
        find_task(f"{user_file(tmp_path, 'def')}:mine")
    with pytest.raises(RequestError, match=r"no file .*absent\.py"):
        find_task(f"{tmp_path / 'absent.py'}:mine")


def test_what_a_users_file_prints_stays_out_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = user_file(tmp_path, "print('hello')\nmine = 3")
    assert load_from_file(f"{path}:mine", int) == 3
    assert capsys.readouterr() == ("", "hello\n")


def test_an_error_is_told_with_the_users_own_line_not_the_librarys(tmp_path: Path) -> None:
    path = user_file(tmp_path, "import torch\ndef wrong():\n    torch.ones(2) @ torch.ones(3)\n")
    wrong = load_from_file(f"{path}:wrong", FunctionType)
    with pytest.raises(RuntimeError) as raised:
        wrong()
    assert describe(raised.value).endswith(f"({path}:3)")
    assert "\n" not in describe(raised.value)


def test_a_changed_file_is_another_task_to_the_store(tmp_path: Path) -> None:
    first = file_digest(f"{user_file(tmp_path, 'a = 1')}:a")
    second = file_digest(f"{user_file(tmp_path, 'a = 2')}:a")
    assert first != second
    assert file_digest("digits/mlp") == ""


def test_a_task_whose_data_is_not_what_it_promises_is_refused() -> None:
    import dataclasses

    wrong = dataclasses.replace(TASKS["digits/mlp"], train=1000)
    with pytest.raises(RequestError, match=r"promises splits of \(1000, 256, 517\) examples, its data has \(1024"):
        wrong.data()
