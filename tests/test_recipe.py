import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rebatch.averaging import Ema, Lookahead
from rebatch.errors import RequestError
from rebatch.recipe import (
    BIGBATCH,
    Adagrad,
    AdamW,
    Defects,
    Epochs,
    Examples,
    GradientPenalty,
    Noise,
    Optimizer,
    Recipe,
    RmsProp,
    Sgd,
    Steps,
)
from rebatch.recipe_file import dumps_recipe, loads_recipe, read_recipe
from rebatch.schedule import (
    Constant,
    Cosine,
    DistanceDrop,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Plateau,
    Schedule,
)
from rebatch.study.plan import RunSpec

FILE = """
batch_size = 128
ghost_batch_size = 128
max_grad_norm = 5.0
last_batch = "keep"

[optimizer]
type = "sgd"
lr = 0.1
momentum = 0.9
weight_decay = 1e-4

[schedule]
type = "multistep"
milestones = [0.2, 0.4, 0.6]
factor = 0.1

[budget]
epochs = 50
"""

PENALTY = "[gradient_penalty]\nbatch_size = 64\n"

RECIPE = Recipe(
    batch_size=128,
    ghost_batch_size=128,
    max_grad_norm=5.0,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.2, 0.4, 0.6), factor=0.1),
    budget=Epochs(50),
)


def test_the_file_of_the_design_is_read() -> None:
    assert loads_recipe(FILE) == RECIPE


@pytest.mark.parametrize(
    "optimizer",
    [
        Sgd(lr=0.1),
        Sgd(lr=1 / 3, momentum=0.9, nesterov=True, weight_decay=5e-4, weight_decay_until=0.6),
        Sgd(lr=1 / 3, momentum=0.9, lr_in_buffer=True, norm_bias_lr_factor=64),
        AdamW(lr=3e-4, betas=(0.9, 0.95)),
        RmsProp(lr=1 / 7, alpha=0.9, eps=1e-5, momentum=0.5, weight_decay=5e-4),
        Adagrad(lr=1 / 7, eps=1e-5, weight_decay=5e-4),
    ],
)
@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        Constant(warmup=0.1),
        MultiStep(milestones=(0.2, 1 / 3), factor=0.2),
        Cosine(final=0.01, warmup=0.05),
        Linear(),
        PiecewiseLinear(points=((0.0, 0.0), (3 / 7, 1.0), (1.0, 0.05))),
        PiecewiseConstant(points=((0.3, 10.0), (2 / 3, 0.1)), warmup=0.1),
        Plateau(patience=1 / 7, factor=0.2, drops=5, metric="train_loss", warmup=0.1),
        DistanceDrop(distances=(1.0, 10 / 3), latest=(0.5, 0.75), factor=0.2, warmup=0.1),
    ],
)
@pytest.mark.parametrize("budget", [Epochs(50), Epochs(0.1 + 0.2), Steps(7), Examples(10**9)])
def test_writing_and_reading_loses_nothing(
    optimizer: Optimizer, schedule: Schedule, budget: Epochs | Steps | Examples
) -> None:
    recipe = Recipe(batch_size=7, optimizer=optimizer, schedule=schedule, budget=budget, loss_reduction="sum")
    assert loads_recipe(dumps_recipe(recipe)) == recipe
    moved = recipe.replace(batch_size=14, ghost_batch_size=7, last_batch="drop", tuned=recipe)
    assert loads_recipe(dumps_recipe(moved)) == moved


NEW_FIELDS: dict[str, list[object]] = {
    "label_smoothing": [0.2, 1 / 3],
    "averaging": [Ema(decay=0.99), Ema(decay=1 / 3, every=7), Lookahead(), Lookahead(decay=1 / 3, every=1, power=0.5)],
    "optimizer": [Sgd(lr=0.1, momentum=0.9, lr_in_buffer=True), Sgd(lr=0.1, norm_bias_lr_factor=1 / 3)],
    "ghost_running": ["sequential", "mean", "scaled", "printed"],
    "clip_steps": [1, 390],
    "clip_mode": ["normalize"],
    "noise": [
        Noise(multiplicative=5.57),
        Noise(labels=0.1),
        Noise(dropout=0.2, dropconnect=1 / 3),
        Noise(multiplicative=1 / 3, labels=0.1, dropout=0.2, dropconnect=0.3),
    ],
    "gradient_penalty": [
        GradientPenalty(strength=1 / 3, batch_size=128),
        GradientPenalty(strength=0.0, batch_size=128),
    ],
    "defects": [
        BIGBATCH,
        Defects(reset_momentum_epochs=7),
        Defects(ghost_split="chunks"),
        Defects(batch_norm_scale="uniform"),
    ],
}
CHANGES = [pytest.param(name, value, id=f"{name} {value}") for name, values in NEW_FIELDS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_every_field_survives_its_file_and_changes_the_hash(name: str, value: object) -> None:
    recipe = RECIPE.replace(**{name: value})
    assert loads_recipe(dumps_recipe(recipe)) == recipe
    moved = RECIPE.replace(tuned=recipe)
    assert loads_recipe(dumps_recipe(moved)) == moved
    assert run_id(recipe) != run_id(RECIPE)


def run_id(recipe: Recipe) -> str:
    return RunSpec(task="digits/mlp", recipe=recipe, seed=0).run_id


def test_new_fields_at_their_default_are_in_no_file_and_no_hash() -> None:
    old = Recipe(batch_size=32, optimizer=Sgd(lr=0.05, momentum=0.9), budget=Epochs(20))
    spelled = old.replace(
        optimizer=Sgd(
            lr=0.05, momentum=0.9, weight_decay_until=float("1"), lr_in_buffer=False, norm_bias_lr_factor=float("1")
        ),
        label_smoothing=float("0"),
        averaging=None,
        ghost_running=None,
        clip_steps=None,
        clip_mode="clip",
        noise=Noise(multiplicative=0, labels=float("0"), dropout=0, dropconnect=0),
        defects=Defects(reset_momentum_epochs=None, ghost_split="size", batch_norm_scale="ones"),
    )
    assert dumps_recipe(spelled) == dumps_recipe(old)
    assert run_id(spelled) == run_id(old) == "6fcf0c499ff6f74e"


def test_a_whole_number_and_its_float_are_one_noise() -> None:
    assert run_id(RECIPE.replace(noise=Noise(multiplicative=2))) == run_id(
        RECIPE.replace(noise=Noise(multiplicative=2.0))
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("momentum", "momentm", "unknown field 'optimizer.momentm'; did you mean 'momentum'?"),
        ('"sgd"', '"sdg"', "optimizer.type 'sdg' is unknown; did you mean 'sgd'?"),
        ('"multistep"', '"multi"', "schedule.type 'multi' is unknown; did you mean 'multistep'?"),
        ("lr = 0.1", "lr = -0.1", "optimizer.lr must be a positive finite number, got -0.1"),
        ("lr = 0.1", "lr = nan", "optimizer.lr must be a positive finite number, got nan"),
        ("lr = 0.1", 'lr = "x"', "optimizer.lr must be a number, got 'x'"),
        ("lr = 0.1\n", "", "optimizer.lr is missing"),
        ("momentum = 0.9", "momentum = 1.0", "optimizer.momentum must be 0 <= momentum < 1, got 1.0"),
        ("weight_decay = 1e-4", "weight_decay = inf", "optimizer.weight_decay must be at least 0 and finite, got inf"),
        ("batch_size = 128\nghost", "batch_size = 12.5\nghost", "batch_size must be a whole number, got 12.5"),
        ("ghost_batch_size = 128", "ghost_batch_size = 256", "between 2 and batch_size 128, got 256"),
        (
            "max_grad_norm = 5.0",
            "max_grad_norm = 0.0",
            "max_grad_norm must be positive and finite (leave it out for none)",
        ),
        ("max_grad_norm = 5.0", "max_grad_norm = inf", "max_grad_norm must be positive and finite"),
        ("max_grad_norm = 5.0", "max_grad_norm = nan", "max_grad_norm must be positive"),
        ("0.2, 0.4", "0.4, 0.2", "schedule.milestones must rise"),
        ("[0.2,", "[-0.2,", "schedule.milestones are fractions of the budget"),
        ('"keep"', '"kep"', "last_batch must be 'keep' or 'drop', got 'kep'"),
        ("epochs = 50", "epoch = 50", "budget must hold exactly one of epochs, steps, examples, got epoch"),
        ("epochs = 50", "epochs = 50\nsteps = 3", "exactly one of epochs, steps, examples, got epochs, steps"),
        ("epochs = 50", "epochs = 0", "budget.epochs must be positive and finite, got 0"),
        ("batch_size = 128\n", "batch_size = = 128\n", "not valid TOML"),
        ("[optimizer]", "optimizer = 3\n[other]", "optimizer must be a table, got 3"),
        ("[optimizer]", "tuned = 3\n[optimizer]", "tuned must be a table, got 3"),
        ("lr = 0.1", "lr = 1979-05-27", "optimizer.lr must be a number, got 1979-05-27"),
        ("lr = 0.1", "lr = true", "optimizer.lr must be a number, got true"),
        ("lr = 0.1\nmomentum = 0.9", "lr = 0.1\nnesterov = true", "false where momentum is 0, got true"),
        ('"sgd"\nlr = 0.1\nmomentum = 0.9', '"adamw"\nlr = 0.1\nbetas = [0.9]', "betas must be two numbers, got [0.9]"),
        ("[0.2, 0.4, 0.6]", "[]", "schedule.milestones needs at least one, got []"),
        ("[budget]", "[noise]\nlabels = 1.0\n[budget]", "noise.labels must be a probability, 0 <= labels < 1, got 1.0"),
        (
            "[budget]",
            "[noise]\nlabels = -0.1\n[budget]",
            "noise.labels must be a probability, 0 <= labels < 1, got -0.1",
        ),
        (
            "[budget]",
            "[noise]\ndropout = nan\n[budget]",
            "noise.dropout must be a probability, 0 <= dropout < 1, got nan",
        ),
        ("[budget]", "[noise]\ndropconnect = 'x'\n[budget]", "noise.dropconnect must be a number, got 'x'"),
        (
            "[budget]",
            "[noise]\nmultiplicative = -1\n[budget]",
            "noise.multiplicative must be at least 0 and finite, got -1",
        ),
        ("[budget]", "[noise]\nmultiplicative = inf\n[budget]", "noise.multiplicative must be at least 0 and finite"),
        ("[budget]", "[noise]\nlabel = 0.1\n[budget]", "unknown field 'noise.label'; did you mean 'labels'?"),
        ("[optimizer]", "noise = 0.1\n[optimizer]", "noise must be a table, got 0.1"),
        ("[budget]", "[gradient_penalty]\nstrength = 0.1\n[budget]", "gradient_penalty.batch_size is missing"),
        ("[budget]", f"{PENALTY}strength = -1\n[budget]", "gradient_penalty.strength must be at least 0 and finite"),
        ("[budget]", f"{PENALTY}strenth = 1\n[budget]", "'gradient_penalty.strenth'; did you mean 'strength'?"),
        ("[budget]", "[gradient_penalty]\nstrength = 1\nbatch_size = 0\n[budget]", "batch_size must be at least 1"),
        ("[budget]", f"{PENALTY}strength = 1\n[budget]", "must be a multiple of ghost_batch_size 128 (a piece holds"),
        (
            "[budget]",
            "[gradient_penalty]\nstrength = 1\nbatch_size = 256\n[budget]",
            "gradient_penalty.batch_size must be at most batch_size 128, got 256",
        ),
        ("[optimizer]", "defects = [1]\n[optimizer]", "defects must be a table, got [1]"),
        (
            "[budget]",
            "[defects]\nghost_split = 'chunk'\n[budget]",
            "defects.ghost_split must be 'size' or 'chunks', got 'chunk'",
        ),
        (
            "[budget]",
            "[defects]\nbatch_norm_scale = 1\n[budget]",
            "defects.batch_norm_scale must be 'ones' or 'uniform', got 1",
        ),
        (
            "[budget]",
            "[defects]\nreset_momentum_epochs = 0\n[budget]",
            "defects.reset_momentum_epochs must be at least 1, got 0",
        ),
        ("[budget]", "[defects]\nreset_momentum_epochs = 1.5\n[budget]", "epochs must be a whole number, got 1.5"),
        ("[budget]", "[defects]\nreset_momentum_epochs = true\n[budget]", "epochs must be a whole number, got true"),
        ("[budget]", "[defects]\nreset_momentum = 1\n[budget]", "unknown field 'defects.reset_momentum'"),
        ("[budget]", "[tuned.noise]\nlabels = 'x'\n[budget]", "tuned.noise.labels must be a number, got 'x'"),
        ("max_grad_norm = 5.0", "clip_steps = 3", "clip_steps must be left out where max_grad_norm is, got 3"),
        (
            "max_grad_norm = 5.0",
            "max_grad_norm = 5.0\nclip_mode = 'clop'",
            "clip_mode must be 'clip' or 'normalize', got",
        ),
        (
            "max_grad_norm",
            "ghost_running = 'men'\nmax_grad_norm",
            "must be 'sequential', 'mean', 'scaled' or 'printed', got",
        ),
        (
            "weight_decay = 1e-4",
            "weight_decay_until = 0",
            "weight_decay_until must be a fraction of the budget, over 0 to 1",
        ),
        (
            "weight_decay = 1e-4",
            "weight_decay_until = nan",
            "optimizer.weight_decay_until must be a fraction of the budget",
        ),
        ("max_grad_norm", "label_smoothing = 1\nmax_grad_norm", "a probability, 0 <= label_smoothing < 1, got 1.0"),
        ("max_grad_norm", "label_smoothing = -0.1\nmax_grad_norm", "label_smoothing must be a probability, 0 <="),
        ("max_grad_norm", "label_smoothing = 'a'\nmax_grad_norm", "label_smoothing must be a number, got 'a'"),
        ("max_grad_norm", "label_smothing = 0.1\nmax_grad_norm", "did you mean 'label_smoothing'?"),
        ("momentum = 0.9", "lr_in_buffer = true", "optimizer.lr_in_buffer must be false where momentum is 0, got true"),
        ("momentum = 0.9", "lr_in_buffer = 1", "optimizer.lr_in_buffer must be true or false, got 1"),
        ("momentum = 0.9", "norm_bias_lr_factor = 0", "norm_bias_lr_factor must be a positive finite number, got 0"),
        ("momentum = 0.9", "norm_bias_lr_factor = inf", "norm_bias_lr_factor must be a positive finite number, got"),
        ("[budget]", '[averaging]\ntype = "emma"\n[budget]', "averaging.type 'emma' is unknown; did you mean 'ema'?"),
        ("[budget]", "[averaging]\ndecay = 0.9\n[budget]", "averaging.type is missing"),
        ("[budget]", '[averaging]\ntype = "ema"\n[budget]', "averaging.decay is missing"),
        (
            "[budget]",
            '[averaging]\ntype = "ema"\ndecay = 1\n[budget]',
            "decay must be over 0 and under 1 (it is per step)",
        ),
        ("[budget]", '[averaging]\ntype = "lookahead"\nevery = 0\n[budget]', "every must be at least 1 step, got 0"),
        (
            "[budget]",
            '[averaging]\ntype = "lookahead"\npower = -1\n[budget]',
            "power must be at least 0 and finite, got",
        ),
        (
            "[budget]",
            '[averaging]\ntype = "lookahead"\npwoer = 1\n[budget]',
            "unknown field 'averaging.pwoer'; did you mean",
        ),
        ('"sgd"', '"rmsprp"', "optimizer.type 'rmsprp' is unknown; did you mean 'rmsprop'?"),
        ('"sgd"', '"adagrad"', "unknown field 'optimizer.momentum'"),
        ('"sgd"\nlr = 0.1', '"rmsprop"\nlr = 0.1\nalpha = 1.0', "optimizer.alpha must be 0 <= alpha < 1, got 1.0"),
        ('"sgd"\nlr = 0.1', '"rmsprop"\nlr = 0.1\neps = 0', "optimizer.eps must be positive and finite, got 0"),
        ('"multistep"', '"plateu"', "schedule.type 'plateu' is unknown; did you mean 'plateau'?"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_its_value_and_the_limit(old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(RequestError) as caught:
        loads_recipe(FILE.replace(old, new, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recipes_made_in_python_are_checked_too() -> None:
    with pytest.raises(RequestError, match="batch_size must be at least 1, got 0"):
        RECIPE.replace(batch_size=0, ghost_batch_size=None)
    with pytest.raises(RequestError, match=r"optimizer\.lr"):
        RECIPE.with_lr(math.inf)
    with pytest.raises(RequestError, match="nesterov must be false where momentum is 0"):
        Sgd(lr=0.1, nesterov=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RECIPE.replace(batch_size=32.5), "batch_size must be a whole number, got 32.5"),
        (lambda: RECIPE.replace(batch_size=True), "batch_size must be a whole number, got true"),
        (
            lambda: RECIPE.replace(optimizer=None),
            "optimizer must be Sgd or AdamW or RmsProp or Adagrad or Lion or Lars or Lamb or Muon, got None",
        ),
        (lambda: RECIPE.replace(budget=5), "budget must be Epochs or Steps or Examples, got 5"),
        (lambda: RECIPE.replace(tuned=3), "tuned must be Recipe or None, got 3"),
        (lambda: RECIPE.replace(averaging="ema"), "averaging must be Ema or Lookahead or None, got 'ema'"),
        (lambda: Ema(decay=None), "averaging.decay must be a number, got None"),  # type: ignore[arg-type]
        (lambda: RECIPE.replace(last_batch="dorp"), "last_batch must be 'keep' or 'drop', got 'dorp'"),
        (lambda: RECIPE.replace(loss_reduction=3), "loss_reduction must be 'mean' or 'sum', got 3"),
        (lambda: RECIPE.replace(max_grad_norm="x"), "max_grad_norm must be a number, got 'x'"),
        (lambda: RECIPE.with_lr(None), "optimizer.lr must be a number, got None"),  # type: ignore[arg-type]
        (lambda: Sgd(lr="x"), "optimizer.lr must be a number, got 'x'"),  # type: ignore[arg-type]
        (lambda: Sgd(lr=0.1, nesterov=1), "optimizer.nesterov must be true or false, got 1"),  # type: ignore[arg-type]
        (lambda: AdamW(lr=0.1, betas=(0.9,)), "optimizer.betas must be two numbers, got [0.9]"),  # type: ignore[arg-type]
        (lambda: AdamW(lr=0.1, betas=("x", 0.9)), "optimizer.betas[0] must be a number, got 'x'"),  # type: ignore[arg-type]
        (lambda: Epochs(True), "budget.epochs must be a number, got true"),
        (lambda: Steps(1.5), "budget.steps must be a whole number, got 1.5"),  # type: ignore[arg-type]
        (lambda: Cosine(final="x"), "schedule.final must be a number, got 'x'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_in_python_is_named_as_in_a_file(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        make()
    assert str(caught.value) == message


def test_numbers_of_numpy_and_whole_learning_rates_become_pythons_own() -> None:
    recipe = Recipe(
        batch_size=np.int64(64),  # type: ignore[arg-type]
        optimizer=AdamW(lr=np.float32(0.5), betas=[np.float64(0.9), 0.5]),  # type: ignore[arg-type]
        budget=Epochs(3),
        schedule=MultiStep(milestones=np.array([0.25, 0.5])),  # type: ignore[arg-type]
    )
    assert (type(recipe.batch_size), type(recipe.optimizer.lr)) == (int, float)
    assert repr(recipe.budget) == "Epochs(epochs=3.0)"
    assert hash(recipe) == hash(loads_recipe(dumps_recipe(recipe)))


def test_a_written_transfer_says_where_the_next_one_starts() -> None:
    lines = dumps_recipe(RECIPE.replace(tuned=RECIPE)).splitlines()
    comment = lines[lines.index("[tuned]") - 2 : lines.index("[tuned]")]
    assert comment == [
        "# A further transfer starts from the numbers below, not from those above.",
        "# After tuning by hand, delete [tuned] and all that follows.",
    ]
    assert "#" not in dumps_recipe(RECIPE)


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_text(FILE, encoding="utf-8-sig")
    assert read_recipe(tmp_path / "windows.toml") == RECIPE


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path
    with pytest.raises(RequestError, match=r"cannot read the recipe .*absent.toml: No such file"):
        read_recipe(folder / "absent.toml")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not a text file in UTF-8"):
        read_recipe(folder / "binary.toml")
    (folder / "wrong.toml").write_text("batch_size = 3\n")
    with pytest.raises(RequestError, match=r"wrong.toml: optimizer is missing"):
        read_recipe(folder / "wrong.toml")
