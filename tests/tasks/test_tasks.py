import dataclasses
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rebatch.data.sets import DataSet, Splits
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.tasks import TASKS, Task, find_task
from rebatch.tasks.find import describe, file_digest, load_from_file
from rebatch.tasks.task import Sizes


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
    wrong = dataclasses.replace(TASKS["digits/mlp"], train=1000)
    with pytest.raises(RequestError, match=r"promises splits of \(1000, 256, 517\) examples, its data has \(1024"):
        wrong.data()


def task_of(**wrong: Any) -> Task:
    """A task of 5, 3 and 2 examples of 7 numbers in 3 classes, with some fields wrong."""
    right = Task(
        "mine/net", TASKS["digits/mlp"].recipe, 5, 3, 2, 3, build=lambda: nn.Linear(7, 3), load=lambda *_: load()
    )
    return dataclasses.replace(right, **wrong)


def load(inputs: Any = None, targets: Any = None) -> Splits:
    """Ten examples, cut into 5, 3 and 2; what is wrong with them is wrong with the last."""
    data = DataSet(
        torch.ones(10, 7) if inputs is None else inputs, torch.arange(10) % 3 if targets is None else targets
    )
    return Splits(data.subset(range(5)), data.subset(range(5, 8)), data.subset(range(8, 10)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": 3}, "a task's name must be a text, such as 'tumors/mlp', got 3"),
        ({"name": " "}, "a task's name must be a text, such as 'tumors/mlp', got ' '"),
        ({"train": "384"}, "task mine/net: train must be a whole number, got '384'"),
        ({"train": 2.5}, "task mine/net: train must be a whole number, got 2.5"),
        ({"validation": -64}, "validation must be at least 1, got -64; only a task with `sizes` leaves it 0"),
        ({"test": 0}, "test must be at least 1, got 0; only a task with `sizes` leaves it 0"),
        ({"test": -1, "sizes": lambda folder: None}, "test must be at least 0, got -1"),
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"tokens_per_example": 0}, "tokens_per_example must be at least 1, got 0"),
        ({"seed_draws_split": "no"}, "seed_draws_split must be true or false, got 'no'"),
        ({"recipe": "r.toml"}, "recipe must be a Recipe, got 'r.toml'; rebatch.read_recipe(path) reads one"),
        ({"regimes": {"code": "r.toml"}}, "regimes['code'] must be a Recipe, got 'r.toml'"),
        ({"regimes": 3}, "regimes must be recipes by name, got 3"),
        ({"execution": "float32"}, "execution must be an Execution or 'auto', got 'float32'"),
        ({"build": nn.Linear(7, 3)}, "build must be a function that takes no arguments, got a Linear; write build="),
        (
            {"build": lambda width: nn.Linear(width, 3)},
            "build must be a function that takes no arguments, got build(width)",
        ),
        ({"load": load()}, "load must be a function that takes a data folder and a seed, got a Splits; write load="),
        ({"load": lambda seed: load()}, "load must be a function that takes a data folder and a seed, got load(seed)"),
        ({"load": None}, "load must be a function that takes a data folder and a seed, got None"),
        (
            {"prepare": lambda model: None},
            "prepare must be a function that takes a model and its splits, got prepare(model)",
        ),
    ],
)
def test_a_task_is_checked_when_it_is_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        task_of(**wrong)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_takes_numpys_numbers_and_anything_that_can_be_called() -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(7, 3)

    task = task_of(train=np.int64(5), build=Net, load=lambda folder, seed, scale=1.0: load())
    assert type(task.train) is int
    assert isinstance(task.model(), Net)
    assert len(task.data().train) == 5
    assert task_of(test=0, sizes=lambda folder: Sizes(5, 3, 2, "")).sized().test == 2


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "build must return an nn.Module, got None; end it with `return model`"),
        ((nn.Linear(7, 3), 1), "build must return an nn.Module, got a tuple; return the model alone"),
    ],
)
def test_what_build_returns_must_be_a_model(made: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        task_of(build=lambda: made).model()
    assert str(caught.value) == f"task mine/net: {message}"


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
BEYOND = "(classes=3), got"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: None, "load must return rebatch.data.sets.Splits, got None; end it with `return Splits("),
        (lambda: (1, 2, 3), "load must return rebatch.data.sets.Splits, got a tuple"),
        (lambda: Splits((1, 2), (1, 2), (1, 2)), "the train split must be a DataSet, got a tuple; make it DataSet("),  # type: ignore[arg-type]
        (lambda: load(targets=LABELS + 1), f"train targets must be from 0 to 2 {BEYOND} 3; number the classes from 0"),
        (lambda: load(targets=LABELS - 1), f"train targets must be from 0 to 2 {BEYOND} -1"),
        (lambda: load(targets=torch.tensor([0] * 9 + [3])), f"test targets must be from 0 to 2 {BEYOND} 3"),
        (lambda: load(targets=torch.tensor([[0, 1]] * 9 + [[0, 3]])), f"test targets must be from 0 to 2 {BEYOND} 3"),
        (lambda: load(targets=LABELS.float()), "train targets must be int64, numbers of classes, got float32; write"),
        (lambda: load(targets=LABELS.int()), "train targets must be int64, numbers of classes, got int32"),
        (lambda: load(inputs=torch.ones(10, 7).double()), "train inputs must not be float64, as weights are float32"),
    ],
)
def test_what_load_returns_must_be_data_of_the_task(made: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        task_of(load=lambda folder, seed: made()).data()
    assert f"task mine/net: {message}" in str(caught.value)


def test_inputs_in_float64_are_for_tasks_in_float64() -> None:
    double = load(inputs=torch.ones(10, 7).double())
    task = task_of(load=lambda folder, seed: double, execution=Execution(precision="float64"))
    assert task.data() is double


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((5, 3, 2), "sizes must return Sizes(train, validation, test, digest), got a tuple"),
        (Sizes(5, 3, 0, ""), "test must be at least 1, sizes found 0; each split needs data"),
    ],
)
def test_what_sizes_returns_must_be_numbers_of_examples(found: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        task_of(sizes=lambda folder: found).sized()
    assert str(caught.value) == f"task mine/net: {message}"


def test_a_wrong_task_in_a_users_file_is_told_with_its_line(tmp_path: Path) -> None:
    text = "import dataclasses\nfrom rebatch.tasks import TASKS\n"
    path = user_file(tmp_path, f"{text}mine = dataclasses.replace(TASKS['digits/mlp'], name='my/net', train='384')\n")
    with pytest.raises(RequestError) as caught:
        find_task(f"{path}:mine")
    assert str(caught.value) == f"task my/net: train must be a whole number, got '384' ({path}:3)"
