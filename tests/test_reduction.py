"""A summed and an averaged loss are one optimization in two spellings, on full batches; transfers keep them so."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebatch.cli.main import run
from rebatch.errors import RequestError
from rebatch.knee import Knee
from rebatch.recipe import Adagrad, AdamW, Epochs, Noise, Optimizer, Recipe, RmsProp, Sgd
from rebatch.recipe_file import read_recipe, write_recipe
from rebatch.reduction import with_loss_reduction
from rebatch.rules.move import Facts, Rule
from rebatch.rules.table import RULES
from rebatch.training import train
from rebatch.transfer import transfer
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits

N = 50_000
FACTS = Facts(noise_scale=700.0, critical_batch_size=900.0, knee=Knee(batch_size=1100.0, exponent=0.7, bend=4.0))
MEAN = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=5e-4),
    budget=Epochs(35),
    max_grad_norm=5.0,
)
OPTIMIZERS: list[Optimizer] = [
    Sgd(lr=0.1, weight_decay=5e-4),
    Sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    AdamW(lr=1e-3, eps=1e-3, weight_decay=0.01),
    RmsProp(lr=1e-3, eps=1e-3, momentum=0.5, weight_decay=5e-4),
    Adagrad(lr=1e-2, eps=1e-3, weight_decay=5e-4),
]


def final_weights(recipe: Recipe, examples: int = 37) -> dict[str, Tensor]:
    model = toy_model()
    for _ in train(model, toy_splits(examples), recipe, seed=0, execution=FLOAT64):
        pass
    return state_of(model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("batch_size", [7, 16])
def test_on_full_batches_both_forms_are_one_run(optimizer: Optimizer, clip: float | None, batch_size: int) -> None:
    mean = RECIPE.replace(
        optimizer=optimizer, max_grad_norm=clip, batch_size=batch_size, ghost_batch_size=None, last_batch="drop"
    )
    summed = with_loss_reduction(mean, "sum")
    assert summed.loss_reduction == "sum"
    # torch guards clipping by adding 1e-6 to the norm, whatever its unit: 2e-5 of a bound of .05.
    assert_same_state(final_weights(summed), final_weights(mean), rtol=1e-12 if clip is None else 1e-3)


def test_on_a_partial_last_batch_the_mean_gives_each_example_more_weight() -> None:
    """One step on 5 of 16 examples: the mean moves the weights 16 / 5 times as far as the sum in the same spelling."""
    mean = RECIPE.replace(
        optimizer=Sgd(lr=0.1), max_grad_norm=None, ghost_batch_size=None, batch_size=16, budget=Epochs(1)
    )
    start = state_of(toy_model())

    def moved(recipe: Recipe) -> Tensor:
        found = final_weights(recipe, examples=5)
        return torch.cat([(found[name] - start[name]).flatten() for name in ("0.weight", "4.weight")])

    with pytest.raises(RequestError, match="batch_size 16 is larger than the training set of 5"):
        moved(mean)
    # The same 5 examples, as the tail of a batch of 16 would be divided, and as a batch of their own.
    tail = moved(with_loss_reduction(mean, "sum").replace(batch_size=5))
    own = moved(mean.replace(batch_size=5))
    torch.testing.assert_close(own, tail * 16 / 5, rtol=1e-10, atol=0)


def test_with_a_partial_last_batch_the_runs_part() -> None:
    mean = RECIPE.replace(ghost_batch_size=None, max_grad_norm=None)
    summed, averaged = final_weights(with_loss_reduction(mean, "sum")), final_weights(mean)
    assert max((summed[name] - averaged[name]).abs().max().item() for name in ("0.weight", "4.weight")) > 1e-3


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_a_transfer_in_either_form_is_the_same_transfer(rule: Rule, optimizer: Optimizer) -> None:
    mean = MEAN.replace(optimizer=optimizer)
    for size in (32, 512, 4096):
        try:
            expected = transfer(mean, batch_size=size, rules=[rule], examples=N, facts=FACTS).recipe.as_tuned()
        except RequestError as error:
            with pytest.raises(RequestError, match=str(error).split(":")[0]):
                transfer(with_loss_reduction(mean, "sum"), batch_size=size, rules=[rule], examples=N, facts=FACTS)
            continue
        summed = transfer(with_loss_reduction(mean, "sum"), batch_size=size, rules=[rule], examples=N, facts=FACTS)
        found = summed.recipe.as_tuned()
        assert found.loss_reduction == "sum"
        back = with_loss_reduction(found, "mean")
        assert back.replace(optimizer=mean.optimizer, max_grad_norm=None) == expected.replace(
            optimizer=mean.optimizer, max_grad_norm=None
        )
        assert back.max_grad_norm == pytest.approx(expected.max_grad_norm, rel=1e-12)
        for field in expected.optimizer.__struct_fields__:
            assert getattr(back.optimizer, field) == pytest.approx(getattr(expected.optimizer, field), rel=1e-12)


def test_page_s_rule_for_sums_keeps_the_rate_and_multiplies_the_decay() -> None:
    page = with_loss_reduction(MEAN, "sum")
    result = transfer(page, batch_size=512, rules=["linear_lr"], examples=N)
    assert result.recipe.optimizer == Sgd(lr=0.1 / 128, momentum=0.9, weight_decay=5e-4 * 512)
    assert [(change.field, change.rule) for change in result.changes] == [
        ("batch_size", "batch_size"),
        ("max_grad_norm", "summed_loss"),
        ("optimizer.lr", "summed_loss"),
        ("optimizer.weight_decay", "summed_loss"),
        ("optimizer.lr", "linear_lr"),
    ]


def test_chains_and_ways_back_hold_for_sums_too() -> None:
    page = with_loss_reduction(MEAN, "sum")
    there = transfer(page, batch_size=512, rules="hoffer", examples=N).recipe
    assert transfer(there, batch_size=128, rules="hoffer", examples=N).recipe == page
    chained = transfer(there, batch_size=4096, rules="hoffer", examples=N)
    assert chained.recipe == transfer(page, batch_size=4096, rules="hoffer", examples=N).recipe
    assert not any("none that a rule gives" in warning for warning in chained.warnings)
    edited = there.replace(optimizer=Sgd(lr=there.optimizer.lr, momentum=0.9, weight_decay=0.5))
    assert "optimizer.weight_decay 0.5 is none that a rule gives" in str(
        transfer(edited, batch_size=4096, rules="hoffer", examples=N).warnings
    )


def test_a_transferred_recipe_is_rewritten_with_what_it_remembers() -> None:
    there = transfer(MEAN, batch_size=512, rules="hoffer", examples=N).recipe
    summed = with_loss_reduction(there, "sum")
    assert summed.tuned == with_loss_reduction(MEAN, "sum")
    assert with_loss_reduction(there, "mean") is there


def test_noise_on_losses_has_no_unit() -> None:
    noisy = MEAN.replace(noise=Noise(multiplicative=2.0))
    assert with_loss_reduction(noisy, "sum").noise == noisy.noise


def test_the_command_line_rewrites_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, moved = tmp_path / "tuned.toml", tmp_path / "moved.toml"
    write_recipe(MEAN, tuned)
    options = ["--loss-reduction", "sum", "--output", str(moved)]
    assert run(["transfer", str(tuned), "--batch-size", "512", *options]) == 0
    assert read_recipe(moved).optimizer == Sgd(lr=0.1 / 128, momentum=0.9, weight_decay=5e-4 * 512)
    assert "summed_loss" in capsys.readouterr().out
    assert run(["transfer", str(tuned), "--batch-size", "512", "--loss-reduction", "median"]) == 2
    assert "--loss-reduction must be sum or mean, got 'median'" in capsys.readouterr().err
