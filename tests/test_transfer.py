import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from rebatch.batching import batch_bounds, total_steps
from rebatch.cli.main import run
from rebatch.errors import RequestError
from rebatch.knee import Knee
from rebatch.price import cost, price
from rebatch.recipe import (
    BIGBATCH,
    Adagrad,
    AdamW,
    Budget,
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
from rebatch.recipe_file import dumps_recipe, loads_recipe, write_recipe
from rebatch.report.transfer_table import transfer_tables
from rebatch.rules.move import Facts, Move, Rule
from rebatch.rules.table import PRESETS, RULES
from rebatch.schedule import MultiStep
from rebatch.transfer import Transfer, transfer

N = 50_000
TUNED = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.81,), factor=0.1),
    budget=Epochs(100),
    max_grad_norm=5.0,
)
BUDGETS: list[Budget] = [Epochs(100), Steps(39_100), Examples(5_000_000)]


FACTS = Facts(noise_scale=700.0, critical_batch_size=900.0, knee=Knee(batch_size=1100.0, exponent=0.7, bend=4.0))


def moved(batch_size: int, *rules: str | Rule, recipe: Recipe = TUNED, facts: Facts = FACTS) -> Recipe:
    return transfer(recipe, batch_size=batch_size, rules=rules, examples=N, facts=facts).recipe


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@pytest.mark.parametrize("budget", BUDGETS)
class TestLawsOfEveryRule:
    def test_kappa_one_changes_nothing(self, rule: Rule, budget: Budget) -> None:
        tuned = TUNED.replace(budget=budget)
        assert rule.apply(tuned, Move(tuned, 128, N, FACTS)) == tuned
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
        tuned = TUNED.replace(budget=budget)
        changes = transfer(tuned, batch_size=4096, rules=[rule], examples=N, facts=FACTS).changes
        assert {change.field for change in changes} <= {"batch_size", *rule.sets}
        assert all(change.why and change.rule for change in changes)

    def test_a_transferred_recipe_survives_its_file(self, rule: Rule, budget: Budget) -> None:
        recipe = moved(4096, rule, recipe=TUNED.replace(budget=budget))
        assert loads_recipe(dumps_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("rule", "factor"),
    [("linear_lr", 32.0), ("sqrt_lr", math.sqrt(32)), ("exact_sqrt_lr", 5.896), ("sqrt_lr_from_256", 4.0)],
)
def test_learning_rate_rules_give_the_published_factors(rule: str, factor: float) -> None:
    assert moved(4096, rule).optimizer.lr / 0.1 == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "factor"), [(64, 0.5), (256, 1.0), (512, math.sqrt(2)), (4096, 4.0)])
def test_the_plain_script_counts_its_rate_from_256_whatever_was_tuned(batch_size: int, factor: float) -> None:
    for tuned in (32, 128, 300):
        result = transfer(TUNED.replace(batch_size=tuned), batch_size=batch_size, rules="sqrt_lr_from_256")
        assert result.recipe.optimizer.lr == pytest.approx(0.1 * factor, rel=1e-12)
        if factor != 1:
            assert result.changes[-1].why.startswith(f"x sqrt({batch_size} / 256) = {factor:.4g}: from a batch of 256")
    assert "sqrt_lr and sqrt_lr_from_256 both set 'optimizer.lr'" in refused("bigbatch", "sqrt_lr_from_256")


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


def test_a_penalty_keeps_strength_and_pieces_and_shrinks_them_with_the_batch() -> None:
    penalty = GradientPenalty(strength=0.1, batch_size=64)
    tuned = TUNED.replace(ghost_batch_size=32, gradient_penalty=penalty)
    large = moved(4096, "default", recipe=tuned)
    assert large.gradient_penalty == penalty
    small = transfer(tuned, batch_size=48, rules="linear")
    assert small.recipe.gradient_penalty == GradientPenalty(strength=0.1, batch_size=32)  # whole ghosts
    assert ("gradient_penalty.batch_size", 64, 32) in [(each.field, each.before, each.after) for each in small.changes]
    further = transfer(small.recipe, batch_size=4096, rules="linear")
    assert further.recipe.gradient_penalty == penalty
    assert not any("gradient_penalty" in warning for warning in further.warnings)
    assert "gradient_penalty.strength was edited" in why_not(
        small.recipe.replace(gradient_penalty=GradientPenalty(strength=0.2, batch_size=32))
    )
    single = transfer(tuned, batch_size=1, rules="linear").recipe
    assert (single.ghost_batch_size, single.gradient_penalty) == (None, GradientPenalty(strength=0.1, batch_size=1))


def test_ghosts_that_a_transfer_adds_are_the_pieces_that_batch_norm_saw() -> None:
    tuned = TUNED.replace(gradient_penalty=GradientPenalty(strength=0.1, batch_size=48))
    assert moved(4096, "ghost_batch", recipe=tuned).ghost_batch_size == 48
    single = TUNED.replace(gradient_penalty=GradientPenalty(strength=0.1, batch_size=1))
    assert moved(4096, "ghost_batch", recipe=single).ghost_batch_size is None


def test_ghosts_of_one_example_are_never_made() -> None:
    tiny = TUNED.replace(batch_size=1)
    assert transfer(tiny, batch_size=64, rules=["ghost_batch"]).recipe.ghost_batch_size is None
    assert transfer(tiny, batch_size=8, examples=N).recipe.ghost_batch_size is None  # by default
    assert transfer(TUNED.replace(ghost_batch_size=32), batch_size=1).recipe.ghost_batch_size is None


def test_same_epochs_shrinks_a_budget_in_steps_and_same_steps_stretches_one_in_epochs() -> None:
    assert moved(4096, "same_epochs", recipe=TUNED.replace(budget=Steps(3200))).budget == Steps(100)
    assert moved(4096, "same_epochs").budget == Epochs(100)
    assert moved(4096, "same_steps").budget == Steps(39_100)
    assert moved(4096, "same_steps", recipe=TUNED.replace(budget=Steps(7))).budget == Steps(7)


def sigma(batch_size: int, tuned: Recipe = TUNED) -> float:
    return moved(batch_size, "matching_noise", recipe=tuned).noise.multiplicative


def test_matching_noise_has_variance_kappa_minus_one_at_the_same_learning_rate() -> None:
    assert sigma(4096) == pytest.approx(math.sqrt(31), rel=1e-12)  # 5.57
    assert sigma(129) == pytest.approx(math.sqrt(1 / 128), rel=1e-12)
    recipe = moved(4096, "matching_noise")
    assert recipe.optimizer == TUNED.optimizer
    assert recipe.replace(noise=Noise()).as_tuned() == TUNED.replace(batch_size=4096)


def test_matching_noise_composes_with_noise_that_is_there_and_takes_away_no_more_than_that() -> None:
    noisy = TUNED.replace(noise=Noise(multiplicative=math.sqrt(7), labels=0.1))
    for batch_size in (64, 256, 4096):  # 1 + sigma^2 over the batch size is what stays
        assert (1 + sigma(batch_size, noisy) ** 2) / batch_size == pytest.approx(8 / 128, rel=1e-12)
    assert sigma(16, noisy) == sigma(8, noisy) == 0.0
    assert sigma(32) == sigma(127) == 0.0
    assert moved(16, "matching_noise", recipe=noisy).noise.labels == 0.1
    assert sigma(128, moved(16, "matching_noise", recipe=noisy)) == math.sqrt(7)
    assert sigma(512, moved(32, "matching_noise")) == sigma(512) == pytest.approx(math.sqrt(3), rel=1e-12)


def test_stretched_epochs_are_more_steps_where_a_partial_batch_is_kept() -> None:
    recipe = moved(4096, "stretched_epochs")
    assert recipe.budget == Epochs(3200)
    assert (total_steps(recipe, N), total_steps(TUNED, N)) == (41_600, 39_100)
    assert total_steps(recipe, N) / total_steps(TUNED, N) == pytest.approx(1.064, abs=5e-4)
    assert total_steps(moved(4096, "same_steps"), N) == 39_100
    dropped = TUNED.replace(last_batch="drop")
    assert total_steps(moved(4096, "stretched_epochs", recipe=dropped), N) == 38_400


@pytest.mark.parametrize(
    ("batch_size", "budget", "expected"),
    [
        (300, Epochs(100), Epochs(300)),  # kappa 2.34
        (32, Epochs(100), Epochs(25)),
        (384, Epochs(7), Epochs(21)),
        (4096, Examples(5_000_000), Examples(160_000_000)),
        (300, Examples(7), Examples(21)),
        (1, Examples(7), Examples(1)),
        (4096, Steps(7), Steps(7)),
    ],
)
def test_stretched_epochs_round_kappa_up(batch_size: int, budget: Budget, expected: Budget) -> None:
    assert moved(batch_size, "stretched_epochs", recipe=TUNED.replace(budget=budget)).budget == expected


@pytest.mark.parametrize("batch_size", [32, 4096])
def test_the_authors_code_is_all_defects_and_nothing_else(batch_size: int) -> None:
    half = TUNED.replace(defects=Defects(reset_momentum_epochs=3))
    for tuned in (TUNED, half):
        recipe = moved(batch_size, "authors_code", recipe=tuned)
        assert (
            recipe.defects
            == BIGBATCH
            == Defects(reset_momentum_epochs=1, ghost_split="chunks", batch_norm_scale="uniform")
        )
        assert recipe.replace(defects=tuned.defects).as_tuned() == tuned.replace(batch_size=batch_size)


def test_the_bigbatch_preset_is_the_papers_released_code() -> None:
    recipe = moved(4096, "bigbatch")
    assert recipe.optimizer.lr == pytest.approx(0.1 * math.sqrt(32), rel=1e-12)
    assert (recipe.ghost_batch_size, recipe.budget, recipe.defects) == (128, Epochs(3200), BIGBATCH)
    assert "stretched_epochs both set 'budget'" in refused("bigbatch", "same_steps")
    small = moved(64, "bigbatch")
    assert (small.ghost_batch_size, small.budget) == (None, Epochs(50))


def test_the_command_line_shows_the_bigbatch_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tuned.toml"
    write_recipe(TUNED, path)
    command = ["transfer", str(path), "--batch-size", "4096", "--rules", "bigbatch", "--examples", str(N)]
    assert run(command) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith("budget 100 epochs 3,200 epochs stretched_epochs x 32:") for line in lines)
    assert any(line.startswith("defects.reset_momentum_epochs - 1 authors_code") for line in lines)
    assert any(line.startswith("defects.ghost_split size chunks authors_code") for line in lines)
    assert "steps 39,100 41,600 x 1.064" in lines
    assert loads_recipe(out[out.index("\nbatch_size = 4096") :]) == moved(4096, "bigbatch")


def test_the_reason_for_a_stretch_names_the_factor_that_is_used() -> None:
    for batch_size, factor in ((4096, "x 32:"), (300, "x 3:"), (32, "x 0.25:")):
        change = transfer(TUNED, batch_size=batch_size, rules="stretched_epochs").changes[-1]
        assert change.why.startswith(factor)


@pytest.mark.parametrize("optimizer", [RmsProp(lr=0.01, momentum=0.5), Adagrad(lr=0.01), AdamW(lr=0.01)])
@pytest.mark.parametrize("rules", [*RULES, *PRESETS])
def test_rules_take_every_optimizer_and_set_of_it_what_they_declare(rules: str, optimizer: Optimizer) -> None:
    tuned = TUNED.replace(optimizer=optimizer)
    names = PRESETS.get(rules, (rules,))
    size = 1024 if "sde_betas" in names else 4096  # where kappa (1 - beta1) is below 1
    recipe = moved(size, rules, recipe=tuned)
    sets = {field for name in names for field in RULES[name].sets}
    for field in optimizer.__struct_fields__:
        if f"optimizer.{field}" not in sets:
            assert getattr(recipe.optimizer, field) == getattr(optimizer, field)
    assert moved(128, rules, recipe=recipe) == tuned
    assert moved(256, rules, recipe=recipe) == moved(256, rules, recipe=tuned)
    assert loads_recipe(dumps_recipe(recipe)) == recipe


@pytest.mark.parametrize("rule", ["linear_lr", "sqrt_lr", "exact_sqrt_lr", "gain_lr", "knee_lr"])
def test_a_rate_s_factor_does_not_depend_on_the_optimizer(rule: str) -> None:
    for optimizer in (RmsProp(lr=0.01), Adagrad(lr=0.01), AdamW(lr=0.01)):
        factor = moved(4096, rule, recipe=TUNED.replace(optimizer=optimizer)).optimizer.lr / 0.01
        assert factor == pytest.approx(moved(4096, rule).optimizer.lr / 0.1, rel=1e-12)


def test_the_linear_rule_warns_beyond_kappa_8() -> None:
    within, beyond = (transfer(TUNED, batch_size=size, rules="linear") for size in (1024, 1025))
    assert within.rules == beyond.rules == ("linear_lr", "same_epochs")
    assert within.warnings == ()
    assert "beyond 8 the linear rule often loses accuracy" in beyond.warnings[0]


def test_linear_for_adamw_is_doubted_aloud() -> None:
    result = transfer(TUNED.replace(optimizer=AdamW(lr=1e-3)), batch_size=256, rules="linear")
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
    assert known.after.examples == 3007 * N + 9 * 4096  # 39,100 steps are 3007 epochs of 13 and 9 whole batches
    assert known.after.epochs == known.after.examples / N
    assert cost_of(transfer(TUNED, batch_size=4096, rules="linear")) == (1 / 32, 1.0)
    assert price(TUNED, TUNED, None).before is None
    steps = TUNED.replace(budget=Steps(3200))
    assert cost_of(transfer(steps, batch_size=4096, rules=["same_steps"])) == (1.0, 32.0)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_price_is_the_sum_of_the_batches(last_batch: str, steps: int) -> None:
    recipe = TUNED.replace(batch_size=512, budget=Steps(steps), last_batch=last_batch)
    bounds = [batch_bounds(step, 1000, recipe) for step in range(steps)]
    assert cost(recipe, 1000).examples == sum(stop - start for _, start, stop in bounds)


def test_one_rule_needs_no_list() -> None:
    assert transfer(TUNED, batch_size=256, rules="hoffer", examples=N).rules == PRESETS["hoffer"]
    assert transfer(TUNED, batch_size=256, rules=RULES["sqrt_lr"]).rules == ("sqrt_lr",)


@pytest.mark.parametrize("batch_size", [64.5, "64", True, None])
def test_a_batch_size_is_a_whole_number(batch_size: int) -> None:
    with pytest.raises(RequestError, match="batch_size must be a whole number, got "):
        transfer(TUNED, batch_size=batch_size)


def why_not(recipe: Recipe, batch_size: int = 256, **options: object) -> str:
    with pytest.raises(RequestError) as caught:
        transfer(recipe, batch_size=batch_size, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_rule_that_gives_no_usable_learning_rate_says_so_by_name() -> None:
    huge = why_not(TUNED.with_lr(1e308), 1024, rules="linear")
    assert huge.startswith("linear_lr gives no positive finite optimizer.lr: 1e+308 x 8")
    full = why_not(TUNED, 64, rules="exact_sqrt_lr", examples=128)
    assert full.startswith("exact_sqrt_lr needs batches smaller than the training set of 128 examples, got 128")


def test_a_rule_changes_only_what_it_declares() -> None:
    sly = Rule("sly", ("optimizer.lr",), _double_decay, lambda move: "because")
    assert why_not(TUNED, rules=sly) == (
        "sly changes 'optimizer.weight_decay' but declares optimizer.lr; add 'optimizer.weight_decay' to what it sets"
    )


@pytest.mark.parametrize("rules", [*RULES, *PRESETS])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("batch_size", [8, 300, 4096])
def test_a_transferred_recipe_moves_on_with_a_note_and_without_a_warning(
    rules: str, budget: Budget, batch_size: int
) -> None:
    recipe = moved(batch_size, rules, recipe=TUNED.replace(budget=budget, ghost_batch_size=32))
    further = transfer(recipe, batch_size=512, rules="linear", examples=N, facts=FACTS)
    assert further.warnings == ()
    assert further.notes == ("starts from the recipe tuned at batch size 128 that this one remembers",)
    assert transfer(TUNED, batch_size=512).notes == ()


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"optimizer": Sgd(lr=0.3, momentum=0.9, weight_decay=1e-4)}, "optimizer.lr 0.3"),
        ({"budget": Epochs(60)}, "budget {epochs = 60}"),
        ({"ghost_batch_size": 64}, "ghost_batch_size 64"),
        ({"noise": Noise(multiplicative=2.0)}, "noise.multiplicative 2.0"),
        ({"defects": Defects(reset_momentum_epochs=2)}, "defects.reset_momentum_epochs 2"),
    ],
)
def test_a_number_edited_after_a_transfer_is_not_ignored_in_silence(edit: dict[str, object], field: str) -> None:
    recipe = moved(4096, "linear").replace(**edit)
    (warning,) = transfer(recipe, batch_size=512, rules="linear", examples=N, facts=FACTS).warnings
    assert warning.startswith(f"{field} is none that a rule gives with these facts; it is ignored; delete [tuned]")
    assert transfer(recipe, batch_size=128, examples=N, facts=FACTS).warnings == (warning,)
    (unsure,) = transfer(recipe, batch_size=512, rules="linear").warnings
    assert unsure.startswith(f"{field} is none that a rule gives without N and other facts; it is ignored")


def test_what_no_rule_sets_was_edited_and_is_refused_unless_a_rule_of_ones_own_sets_it() -> None:
    message = why_not(moved(4096, "linear").replace(label_smoothing=0.1))
    assert message.startswith("label_smoothing was edited after a transfer (0.1, in [tuned] left out)")
    assert "delete [tuned]" in message
    doubled = Rule("double_decay", ("optimizer.weight_decay",), _double_decay, lambda move: "because")
    assert moved(512, doubled, recipe=moved(4096, doubled)) == moved(512, doubled)


def printed(result: Transfer) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(transfer_tables(result))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_without_n_the_price_shows_what_both_budgets_name_and_factors() -> None:
    lines = printed(transfer(TUNED, batch_size=512, rules="linear"))
    table = ["price before after factor", "steps x 0.25", "examples x 1", "epochs 100 100 x 1"]
    assert lines[-5:-1] == table
    assert lines[-1] == "best learning rate: 0.4, with 90 % confidence 0.161 to 0.992"
    steps = printed(transfer(TUNED.replace(budget=Steps(3200)), batch_size=512, rules="linear"))
    assert steps[-3:-1] == ["steps 3,200 800 x 0.25", "examples x 1"]
    mixed = Rule("by_hand", ("budget",), lambda recipe, _: recipe.replace(budget=Steps(7)), lambda _: "because")
    assert "price factor" in printed(transfer(TUNED, batch_size=512, rules=mixed))


def test_where_a_transfer_starts_is_printed_and_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "moved.toml"
    write_recipe(moved(4096, "linear").with_lr(0.3), path)
    lines = printed(transfer(loads_recipe(path.read_text()), batch_size=512, rules="linear", examples=N))
    assert lines[-2].startswith("note: starts from the recipe tuned at batch size 128")
    assert lines[-1].startswith("warning: optimizer.lr 0.3 is none")
    assert run(["transfer", str(path), "--batch-size", "512", "--rules", "linear", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["notes"] == ["starts from the recipe tuned at batch size 128 that this one remembers"]
    assert document["warnings"][0].startswith("optimizer.lr 0.3 is none that a rule gives without N")


def test_an_output_that_cannot_be_written_is_named_as_the_user_gave_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tuned.toml"
    write_recipe(TUNED, path)
    command = ["transfer", str(path), "--batch-size", "512", "--output"]
    assert run([*command, str(tmp_path)]) == 2
    assert f"--output must name a file, got the directory {tmp_path};" in capsys.readouterr().err
    assert run([*command, str(path / "new.toml")]) == 1
    assert f"cannot write {path / 'new.toml'}: " in capsys.readouterr().err
    assert run([*command, str(tmp_path / ("x" * 300))]) == 1
    assert "partial" not in capsys.readouterr().err


def test_a_larger_rate_and_matching_noise_exclude_each_other() -> None:
    for rate in [name for name, rule in RULES.items() if "optimizer.lr" in rule.sets]:
        with pytest.raises(RequestError, match=f"{rate} and matching_noise each keep the covariance"):
            transfer(TUNED, batch_size=256, rules=[rate, "matching_noise"], examples=N)
