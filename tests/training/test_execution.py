"""Ways of computing the same run: precision, memory format, compilation."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import DataSet, Splits
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.study.choose import fastest
from rebatch.tasks import TASKS
from rebatch.training import Row, train
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits

IMAGES = Recipe(batch_size=16, ghost_batch_size=4, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(2))


def image_splits() -> Splits:
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=numbers)
    data = DataSet(inputs, torch.randint(0, 5, (48,), generator=numbers))
    parts = data.subset(range(37)), data.subset(range(37, 43)), data.subset(range(43, 48))
    return Splits(*parts, augmentations=(PadCrop(2), Flip()), normalize=Normalize((0.5,) * 3, (0.25,) * 3))


def small_cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5)
        )


def run(execution: Execution) -> tuple[list[Row], dict[str, torch.Tensor]]:
    model = small_cnn()
    rows = list(train(model, image_splits(), IMAGES, seed=1, execution=execution, evaluations=2))
    return rows, state_of(model)


def test_channels_last_is_the_same_run() -> None:
    rows, weights = run(Execution(precision="float64"))
    last_rows, last_weights = run(Execution(precision="float64", memory_format="channels_last"))
    assert [row["train_loss"] for row in last_rows] == pytest.approx([row["train_loss"] for row in rows], rel=1e-10)
    assert_same_state(last_weights, weights, rtol=1e-9)


def test_channels_last_reaches_weights_and_inputs() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
            return inputs

    network = small_cnn()
    model = nn.Sequential(Spy(), network)
    next(train(model, image_splits(), IMAGES, seed=1, execution=Execution(memory_format="channels_last")))
    assert seen == [True, True]  # a step and an evaluation
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_computes_in_bfloat16_over_float32_weights() -> None:
    dtypes = []

    class Spy(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            dtypes.append(inputs.dtype)
            return inputs

    model = nn.Sequential(small_cnn(), Spy())
    rows = list(train(model, image_splits(), IMAGES, seed=1, execution=Execution(precision="bfloat16"), evaluations=1))
    assert set(dtypes) == {torch.bfloat16}  # training and evaluation
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    plain, _ = run(Execution())
    assert rows[-1]["train_loss"] == pytest.approx(plain[-1]["train_loss"], rel=0.05)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, as inductor loads
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++ is not installed")
def test_a_compiled_run_is_the_same_run() -> None:
    compiled, plain = toy_model(), toy_model()
    recipe = RECIPE.replace(last_batch="drop")  # one batch size, one graph
    rows = list(train(plain, toy_splits(), recipe, seed=1, execution=Execution(precision="float64")))
    execution, before = Execution(precision="float64", compile=True), counters["stats"]["unique_graphs"]
    compiled_rows = list(train(compiled, toy_splits(), recipe, seed=1, execution=execution))
    assert counters["stats"]["unique_graphs"] == before + 1
    assert [row["train_loss"] for row in compiled_rows] == pytest.approx([row["train_loss"] for row in rows], rel=1e-8)
    assert_same_state(state_of(compiled), state_of(plain), rtol=1e-8)


def test_auto_measures_candidates_and_keeps_float32_unless_another_wins_clearly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rebatch.study import choose

    choice, rates = fastest(TASKS["digits/mlp"], None, threads=1, steps=8)
    assert set(rates) == {Execution(), Execution(precision="bfloat16")}
    assert all(rate > 0 for rate in rates.values())
    assert choice in rates
    for gain, expected in ((1.1, "float32"), (1.2, "bfloat16")):
        speed = {"float32": 1.0, "bfloat16": gain}
        monkeypatch.setattr(choose, "_rate", lambda t, d, execution, s, speed=speed: speed[execution.precision])
        assert fastest(TASKS["digits/mlp"], Path(), threads=1)[0].precision == expected
