import math

import pytest

from rebatch.batching import total_steps
from rebatch.errors import RequestError
from rebatch.price import price
from rebatch.recipe import AdamW, Budget, Epochs, Examples, Recipe, Sgd, Steps, dumps_recipe, loads_recipe
from rebatch.schedule import MultiStep
from rebatch.transfer import PRESETS, RULES, Move, Rule, Transfer, transfer

N = 50_000
TUNED = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.81,), factor=0.1),
    budget=Epochs(100),
    max_grad_norm=5.0,
)
BUDGETS: list[Budget] = [Epochs(100), Steps(39_100), Examples(5_000_000)]


def moved(batch_size: int, *rules: str | Rule, recipe: Recipe = TUNED) -> Recipe:
    return transfer(recipe, batch_size=batch_size, rules=rules, examples=N).recipe


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("budget", BUDGETS)
class TestLawsOfEveryRule:
    def test_kappa_one_changes_nothing(self, rule: Rule, budget: Budget) -> None:
        tuned = TUNED.replace(budget=budget)
        assert rule.apply(tuned, Move(tuned, 128, N)) == tuned
        assert transfer(tuned, batch_size=128, rules=[rule], examples=N).recipe == tuned

    def test_a_to_b_to_c_equals_a_to_c(self, rule: Rule, budget: Budget) -> None:
        tuned = TUNED.replace(budget=budget)
        for middle, last in [(512, 4096), (4096, 512), (8, 4096), (300, 77)]:
            assert moved(last, rule, recipe=moved(middle, rule, recipe=tuned)) == moved(last, rule, recipe=tuned)

    def test_there_and_back_is_the_same_recipe(self, rule: Rule, budget: Budget) -> None:
        tuned = TUNED.replace(budget=budget)
        for there in (512, 4096, 8, 77):
            assert moved(128, rule, recipe=moved(there, rule, recipe=tuned)) == tuned

    def test_only_the_declared_fields_change(self, rule: Rule, budget: Budget) -> None:
        changes = transfer(TUNED.replace(budget=budget), batch_size=4096, rules=[rule], examples=N).changes
        assert {change.field for change in changes} <= {"batch_size", *rule.sets}
        assert all(change.why and change.rule for change in changes)

    def test_a_transferred_recipe_survives_its_file(self, rule: Rule, budget: Budget) -> None:
        recipe = moved(4096, rule, recipe=TUNED.replace(budget=budget))
        assert loads_recipe(dumps_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("rule", "factor"),
    [("linear_lr", 32.0), ("sqrt_lr", math.sqrt(32)), ("exact_sqrt_lr", 5.896)],
)
def test_learning_rate_rules_give_the_published_factors(rule: str, factor: float) -> None:
    assert moved(4096, rule).optimizer.lr / 0.1 == pytest.approx(factor, rel=1e-4)


def test_the_hoffer_preset_keeps_the_number_of_updates_and_ghosts_of_the_tuned_batch() -> None:
    recipe = moved(4096, "hoffer")
    assert total_steps(recipe, N) == total_steps(TUNED, N) == 39_100
    assert recipe.ghost_batch_size == 128
    assert recipe.schedule == TUNED.schedule  # fractions: the milestones stretch with the budget
    assert recipe.as_tuned() == moved(4096, *PRESETS["hoffer"]).as_tuned()


def test_a_ghost_size_that_is_set_is_kept_and_one_that_no_longer_fits_is_the_batch() -> None:
    tuned = TUNED.replace(ghost_batch_size=32)
    assert moved(4096, "ghost_batch", recipe=tuned).ghost_batch_size == 32
    assert moved(16, "ghost_batch", recipe=tuned).ghost_batch_size == 16
    assert moved(64, "ghost_batch").ghost_batch_size is None


def test_same_epochs_shrinks_a_budget_in_steps_and_same_steps_stretches_one_in_epochs() -> None:
    assert moved(4096, "same_epochs", recipe=TUNED.replace(budget=Steps(3200))).budget == Steps(100)
    assert moved(4096, "same_epochs").budget == Epochs(100)
    assert moved(4096, "same_steps").budget == Steps(39_100)
    assert moved(4096, "same_steps", recipe=TUNED.replace(budget=Steps(7))).budget == Steps(7)


def test_without_rules_the_linear_rule_warns_beyond_kappa_8() -> None:
    within, beyond = (transfer(TUNED, batch_size=size) for size in (1024, 1025))
    assert within.rules == beyond.rules == ("linear_lr", "same_epochs")
    assert within.warnings == ()
    assert "beyond 8 the linear rule often loses accuracy" in beyond.warnings[0]


def test_linear_for_adamw_is_doubted_aloud() -> None:
    result = transfer(TUNED.replace(optimizer=AdamW(lr=1e-3)), batch_size=256)
    assert "derived for SGD" in result.warnings[0]


def test_a_rule_of_ones_own_comes_last_and_is_named_in_the_changes() -> None:
    doubled = Rule("double_decay", ("optimizer.weight_decay",), _double_decay, lambda move: "because")
    result = transfer(TUNED, batch_size=256, rules=[doubled, "sqrt_lr"])
    assert [change.rule for change in result.changes] == ["batch_size", "sqrt_lr", "double_decay"]
    assert result.changes[-1].after == 2e-4


def _double_decay(recipe: Recipe, move: Move) -> Recipe:
    assert isinstance(recipe.optimizer, Sgd)
    return recipe.replace(optimizer=Sgd(lr=recipe.optimizer.lr, momentum=0.9, weight_decay=2e-4))


def refused(*rules: str, batch_size: int = 4096, examples: int | None = N) -> str:
    with pytest.raises(RequestError) as caught:
        transfer(TUNED, batch_size=batch_size, rules=rules, examples=examples)
    return str(caught.value)


def test_requests_that_make_no_sense_are_refused_with_a_way_out() -> None:
    assert refused("linear_lr", "sqrt_lr") == "linear_lr and sqrt_lr both set 'optimizer.lr'; choose one of them"
    assert refused("linear", "hoffer").startswith("linear_lr and sqrt_lr both set")
    assert refused("sqr_lr") == "no rule named 'sqr_lr'; did you mean 'sqrt_lr'?"
    assert "same_steps needs the number of training examples" in refused("same_steps", examples=None)
    assert "exact_sqrt_lr needs the number of training examples" in refused("exact_sqrt_lr", examples=None)
    assert "the full batch has no noise" in refused("exact_sqrt_lr", batch_size=N)
    assert "larger than the training set of 50000" in refused("sqrt_lr", batch_size=N + 1)
    assert "batch_size must be at least 1, got 0" in refused("sqrt_lr", batch_size=0)


def cost_of(result: Transfer) -> tuple[float, float]:
    return result.price.steps_factor, result.price.examples_factor


def test_the_price_counts_partial_batches_where_n_is_known_and_gives_factors_where_not() -> None:
    known = transfer(TUNED, batch_size=4096, rules=["hoffer"], examples=N).price
    assert known.before is not None
    assert known.after is not None
    assert (known.before.steps, known.after.steps) == (39_100, 39_100)
    assert known.after.examples == pytest.approx(39_100 * N / 13, abs=1)
    assert known.after.epochs == pytest.approx(39_100 / 13, rel=1e-6)
    assert cost_of(transfer(TUNED, batch_size=4096)) == (1 / 32, 1.0)
    assert price(TUNED, TUNED, None).before is None
    steps = TUNED.replace(budget=Steps(3200))
    assert cost_of(transfer(steps, batch_size=4096, rules=["same_steps"])) == (1.0, 32.0)
