"""Transfers of Lion, LARS, LAMB and Muon: the laws of every rule, what each of them gets, and how sure that is."""

import math
from typing import Any

import pytest

from rebatch.errors import RequestError
from rebatch.knee import Knee
from rebatch.recipe import AdamW, Epochs, Lamb, Lars, Lion, Muon, Optimizer, Recipe, Sgd, Steps
from rebatch.recipe_file import dumps_recipe, loads_recipe
from rebatch.rules.move import Facts, Move, Rule
from rebatch.rules.table import RULES
from rebatch.schedule import Cosine
from rebatch.transfer import transfer

N = 50_000
KNEE = Knee(batch_size=1100.0, exponent=0.7, bend=4.0)
FACTS = Facts(noise_scale=700.0, critical_batch_size=900.0, knee=KNEE)
OPTIMIZERS: list[Optimizer] = [
    Lion(lr=1e-4, weight_decay=0.3),
    Lars(lr=2.0),
    Lamb(lr=2e-3, weight_decay=0.1),
    Muon(lr=2e-3, adamw_lr_factor=0.5),
]


def tuned(optimizer: Optimizer) -> Recipe:
    return Recipe(batch_size=128, optimizer=optimizer, schedule=Cosine(warmup=0.02), budget=Epochs(100))


def moved(recipe: Recipe, batch_size: int, *rules: str | Rule, facts: Facts | None = None) -> Any:
    return transfer(recipe, batch_size=batch_size, rules=rules, examples=N, facts=facts).recipe


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
def test_the_laws_of_every_rule_hold(rule: Rule, optimizer: Optimizer) -> None:
    recipe = tuned(optimizer)
    assert rule.apply(recipe, Move(recipe, 128, N, FACTS)) == recipe
    for middle, last in [(512, 1024), (1024, 300), (64, 1024), (300, 128)]:
        there = moved(recipe, middle, rule, facts=FACTS)
        assert moved(there, last, rule, facts=FACTS) == moved(recipe, last, rule, facts=FACTS)
        assert loads_recipe(dumps_recipe(there)) == there
        changes = transfer(recipe, batch_size=middle, rules=[rule], examples=N, facts=FACTS).changes
        assert {change.field for change in changes} <= {"batch_size", *rule.sets}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
def test_what_is_said_of_them_is_marked_as_weak(optimizer: Optimizer) -> None:
    found = transfer(tuned(optimizer), batch_size=512)
    by_rules = [change for change in found.changes if change.field.startswith(("optimizer", "schedule"))]
    assert by_rules
    assert {change.evidence for change in by_rules} == {"weak"}
    kind = optimizer.__struct_config__.tag
    (doubt,) = [each for each in found.warnings if "rests on weak evidence" in each]
    assert doubt.startswith(f"how to move {kind!r} between batch sizes rests on weak evidence")
    assert ("tuned SGD with Nesterov momentum and tuned AdamW match it" in doubt) is isinstance(optimizer, Lars | Lamb)
    for known in (Sgd(lr=0.1), AdamW(lr=1e-3)):
        others = transfer(tuned(known), batch_size=512)
        assert "weak evidence" not in str(others.warnings)
        assert "some" in {change.evidence for change in others.changes}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
def test_the_default_rate_is_the_square_root_and_bends_flat_at_a_knee(optimizer: Optimizer) -> None:
    recipe = tuned(optimizer)
    assert moved(recipe, 512, "default_lr").optimizer.lr == pytest.approx(2 * optimizer.lr)
    found = moved(recipe, 1024, "default_lr", facts=Facts(knee=KNEE)).optimizer
    own = Knee(batch_size=1100.0, exponent=0.5, bend=1.0 if isinstance(optimizer, Muon) else 4.0)
    assert found.lr / optimizer.lr == pytest.approx(own.factor(128, 1024), rel=1e-12)
    swept = moved(recipe, 1024, "default_lr", facts=Facts(knee=KNEE, knee_from="sweep")).optimizer
    assert swept.lr / optimizer.lr == pytest.approx(KNEE.factor(128, 1024), rel=1e-12)
    with pytest.raises(RequestError, match="legw" if isinstance(optimizer, Lars | Lamb) else "sqrt_lr,same_epochs"):
        moved(recipe, 2048, "default_lr")


def test_muons_adamw_part_follows_adamw_and_both_forget_alike() -> None:
    recipe, as_adamw = tuned(OPTIMIZERS[3]), tuned(AdamW(lr=1e-3))
    for facts in (Facts(), Facts(knee=KNEE), Facts(noise_scale=700.0)):
        found = moved(recipe, 512, "default", facts=facts).optimizer
        theirs = moved(as_adamw, 512, "default_lr", facts=facts).optimizer
        assert found.lr * found.adamw_lr_factor == pytest.approx(theirs.lr, rel=1e-12)
        assert 1 - found.lr * found.weight_decay == pytest.approx((1 - 2e-3 * 0.1) ** 4, rel=1e-12)
        assert found.betas == pytest.approx((0.9, 0.999**4), rel=1e-12)
        assert found.momentum == 0.95


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[0], OPTIMIZERS[2]], ids=lambda each: type(each).__name__)
def test_decoupled_decay_and_beta2_keep_their_memory_in_examples(optimizer: Any) -> None:
    found = moved(tuned(optimizer), 512, "default").optimizer
    kept = (1 - optimizer.lr * optimizer.weight_decay) ** 4
    assert 1 - found.lr * found.weight_decay == pytest.approx(kept, rel=1e-12)
    assert found.betas == pytest.approx((0.9, optimizer.betas[1] ** 4), rel=1e-12)


def test_lars_with_decay_is_refused_but_moved_as_its_authors_did() -> None:
    recipe = tuned(Lars(lr=2.0, weight_decay=1e-4))
    with pytest.raises(RequestError, match=r"same_memory needs decoupled weight decay, or SGD; .* 'lars'"):
        moved(recipe, 512, "default")
    found = moved(recipe, 4096, "legw")
    assert found.optimizer == Lars(lr=2.0 * math.sqrt(32), weight_decay=1e-4)
    assert found.schedule.warmup == pytest.approx(0.64)


def test_lambs_warm_up_keeps_two_lifetimes_of_its_second_moment() -> None:
    """Of 10,000 steps at batch 128 a hundred warm up; of 100 at 12,800 half do, for 2 / (1 - beta2) is more."""
    recipe = tuned(Lamb(lr=1e-3)).replace(budget=Steps(10_000))
    assert moved(recipe, 12_800, "same_epochs", "same_warmup").schedule.warmup == 0.5
    lion = recipe.replace(optimizer=Lion(lr=1e-4))
    assert moved(lion, 12_800, "same_epochs", "same_warmup").schedule.warmup == pytest.approx(0.02)
