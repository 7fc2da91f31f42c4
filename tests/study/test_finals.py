"""What is measured after a run's last step is right, and nobody can see afterwards that it was measured."""

import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from measure.test_curvature import dense_hessian
from rebatch import draws
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.measure import top_eigenvalue
from rebatch.nn import convert_ghost_batch_norm
from rebatch.recipe import Epochs, Recipe
from rebatch.study.execute import execute
from rebatch.study.finals import FINALS, finals
from rebatch.study.plan import RunSpec
from rebatch.study.store import Result, Store
from rebatch.tasks import TASKS
from rebatch.training import Row, evaluate, train
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits

DATA = toy_splits()
DIGITS = TASKS["digits/mlp"]


def spec_of(recipe: Recipe = RECIPE, *names: str) -> RunSpec:
    return RunSpec(task="toy", recipe=recipe, seed=3, execution=FLOAT64, finals=names)


@pytest.fixture
def trained() -> nn.Sequential:
    model = toy_model()
    for _ in train(model, DATA, RECIPE, seed=3, execution=FLOAT64):
        pass
    return model


@pytest.mark.parametrize("name", FINALS)
def test_measuring_leaves_the_model_as_it_was_bit_for_bit(name: str, trained: nn.Sequential) -> None:
    before, outputs = state_of(trained), evaluate(trained, DATA.test, execution=FLOAT64)
    modes, generator = [module.training for module in trained.modules()], torch.get_rng_state()
    norm = next(layer for layer in trained.modules() if isinstance(layer, nn.BatchNorm1d))
    buffer = norm.running_mean
    found = finals(spec_of(RECIPE, name), trained, DATA, World())
    assert found == finals(spec_of(RECIPE, name), trained, DATA, World())
    assert list(state_of(trained)) == list(before)  # names in their order, for checkpoints
    assert_same_state(state_of(trained), before)
    assert norm.running_mean is buffer
    assert [module.training for module in trained.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    later = evaluate(trained, DATA.test, execution=FLOAT64)
    assert (later.loss, later.accuracy) == (outputs.loss, outputs.accuracy)
    for row, other in zip(
        train(copy.deepcopy(trained), DATA, RECIPE, seed=4, execution=FLOAT64),
        train(trained, DATA, RECIPE, seed=4, execution=FLOAT64),
        strict=True,
    ):
        assert row == other


@pytest.mark.parametrize(("ghost", "whole"), [(3, 6), (2, 6), (7, 7), (16, 7)])
def test_ghosts_of_test_examples_are_normalized_with_their_own_statistics(
    ghost: int, whole: int, trained: nn.Sequential
) -> None:
    twin = copy.deepcopy(trained)
    chosen = draws.generator(3, "ghost_statistics").permutation(len(DATA.test))[:whole]
    hits = 0
    for start in range(0, whole, ghost):
        part = torch.from_numpy(chosen[start : start + ghost])
        inputs, targets = DATA.test.inputs[part], DATA.test.targets[part]
        hidden = twin[0](inputs)
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)
        normal = (hidden - mean) / torch.sqrt(variance + twin[1].eps) * twin[1].weight + twin[1].bias
        hits += int((twin[4](normal.relu()).argmax(1) == targets).sum())
    spec = spec_of(RECIPE.replace(ghost_batch_size=ghost, batch_size=16))
    found = FINALS["ghost_statistics"](spec, trained, DATA, World())
    assert found == {"ghost_statistics_accuracy": pytest.approx(100.0 * hits / whole)}


def test_plain_batch_norm_and_ghosts_are_measured_alike(trained: nn.Sequential) -> None:
    plain = toy_model()
    plain.load_state_dict(trained.state_dict())
    assert isinstance(trained[1], nn.BatchNorm1d)
    ghosts = convert_ghost_batch_norm(copy.deepcopy(plain), 3)
    spec = spec_of(RECIPE.replace(ghost_batch_size=3))
    found = [FINALS["ghost_statistics"](spec, model, DATA, World()) for model in (plain, ghosts)]
    assert found[0] == found[1]


def test_the_training_set_is_evaluated_as_it_is(trained: nn.Sequential) -> None:
    trained.eval()
    outputs = trained(DATA.train.inputs)
    loss = F.cross_entropy(outputs, DATA.train.targets).item()
    hits = (outputs.argmax(1) == DATA.train.targets).double().mean().item()
    found = finals(spec_of(RECIPE, "train_evaluation"), trained, DATA, World())
    assert found == pytest.approx({"final_train_loss": loss, "final_train_accuracy": 100.0 * hits})


def test_the_curvature_is_that_of_the_training_loss_in_evaluation_mode(trained: nn.Sequential) -> None:
    found = finals(spec_of(RECIPE, "top_eigenvalue"), trained, DATA, World())
    exact = torch.linalg.eigvalsh(dense_hessian(trained.eval()))[-1].item()
    assert found["top_eigenvalue"] == pytest.approx(exact, rel=1e-2)


def test_a_top_eigenvalue_that_was_not_found_is_no_number(
    trained: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebatch.study.finals.top_eigenvalue", partial(top_eigenvalue, max_products=2))
    found = finals(spec_of(RECIPE, "top_eigenvalue"), trained, DATA, World())
    assert math.isnan(found["top_eigenvalue"])
    assert found["top_eigenvalue_residual"] > 0.0


def digits_run(folder: Path, *names: str) -> Result:
    spec = RunSpec(task=DIGITS.name, recipe=DIGITS.recipe.replace(budget=Epochs(1)), seed=3, finals=names)
    store = Store(folder, create=True)
    return execute(spec, store.begin(spec), DIGITS, data_dir=None, environment={}, on_row=lambda _: None)


def test_a_run_with_measurements_is_the_run_without_and_their_numbers(tmp_path: Path) -> None:
    bare, measured = digits_run(tmp_path / "a"), digits_run(tmp_path / "b", *FINALS)
    assert (measured.accuracy, measured.test_loss, measured.correct) == (bare.accuracy, bare.test_loss, bare.correct)
    assert bare.metrics.items() <= measured.metrics.items()
    assert measured.metrics.keys() - bare.metrics.keys() == {
        "final_train_loss",
        "final_train_accuracy",
        "ghost_statistics_accuracy",
        "top_eigenvalue",
        "top_eigenvalue_residual",
        "rescaled_eigenvalue",
        "rescaled_outputs_move",
    }


def test_the_rescaled_net_is_the_same_function_with_another_eigenvalue(tmp_path: Path) -> None:
    found = digits_run(tmp_path, "top_eigenvalue", "rescaled_eigenvalue").metrics
    assert found["rescaled_outputs_move"] == 0.0
    before, after = found["top_eigenvalue"], found["rescaled_eigenvalue"]
    assert before is not None
    assert after is not None
    assert after > 2.0 * before


def test_what_cannot_be_measured_is_refused_before_the_run(tmp_path: Path) -> None:
    spec = RunSpec(task=DIGITS.name, recipe=DIGITS.recipe, seed=3, finals=("top_eigenvalu",))
    folder, rows = Store(tmp_path, create=True).begin(spec), list[Row]()
    with pytest.raises(RequestError, match=r"nothing named 'top_eigenvalu' .* did you mean 'top_eigenvalue'\?"):
        execute(spec, folder, DIGITS, data_dir=None, environment={}, on_row=rows.append)
    assert rows == []
