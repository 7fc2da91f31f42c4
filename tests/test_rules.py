"""Rules of transfer against known answers: the gain, weight decay's memory, moments, lengths, and what is refused."""

import math
from pathlib import Path

import pytest

from rebatch.averaging import Ema
from rebatch.batching import total_steps
from rebatch.cli.main import run
from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.knee import Knee, rate_interval
from rebatch.noise_course import NoiseCourse
from rebatch.price import expected
from rebatch.recipe import Adagrad, AdamW, Budget, Epochs, Examples, Optimizer, Recipe, RmsProp, Sgd, Steps
from rebatch.recipe_file import write_recipe
from rebatch.reduction import with_loss_reduction
from rebatch.rules.move import Facts
from rebatch.rules.table import PRESETS, RULES
from rebatch.schedule import Constant, Cosine
from rebatch.transfer import Transfer, transfer

N = 50_000
SGD = Recipe(batch_size=128, optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=5e-4), budget=Epochs(100))
ADAM = Recipe(
    batch_size=128,
    optimizer=AdamW(lr=1e-3, weight_decay=0.1),
    schedule=Cosine(warmup=0.1),
    budget=Epochs(100),
    max_grad_norm=1.0,
    averaging=Ema(decay=0.999),
)
RATE_RULES = ("linear_lr", "sqrt_lr", "gain_lr", "knee_lr", None)
KNOWN = Facts(noise_scale=700.0, knee=Knee(batch_size=1000.0, exponent=0.7, bend=4.0))


def moved(recipe: Recipe, batch_size: int, *rules: str, facts: Facts = KNOWN) -> Recipe:
    return transfer(recipe, batch_size=batch_size, rules=rules, examples=N, facts=facts).recipe


def adam(recipe: Recipe) -> AdamW:
    assert isinstance(recipe.optimizer, AdamW)
    return recipe.optimizer


@pytest.mark.parametrize("preset", ["default", "adam-sde", "gain", "linear", "hoffer"])
@pytest.mark.parametrize("start", [SGD, ADAM], ids=["sgd", "adamw"])
def test_presets_go_there_on_and_back(preset: str, start: Recipe) -> None:
    for middle, last in [(512, 1024), (1024, 300), (8, 1024), (77, 256)]:
        there = moved(start, middle, preset)
        assert moved(there, last, preset) == moved(start, last, preset)
        assert moved(there, 128, preset) == start


def test_the_gain_is_linear_far_below_the_noise_scale_and_flat_far_above() -> None:
    def factor(noise_scale: float) -> float:
        found = transfer(SGD, batch_size=1024, rules="gain_lr", facts=Facts(noise_scale=noise_scale))
        return found.recipe.optimizer.lr / 0.1

    assert factor(1e9) == pytest.approx(8.0, rel=1e-5)
    assert factor(1e-3) == pytest.approx(1.0, rel=1e-4)
    assert factor(1024.0) == pytest.approx((1 + 8) / (1 + 1))  # nu = B_n/B = 8
    assert RULES["gain_lr"].evidence == "some"


def test_the_gain_counts_that_a_batch_of_all_examples_has_no_noise() -> None:
    found = transfer(SGD, batch_size=1024, rules="gain_lr", examples=1024, facts=Facts(noise_scale=1024.0))
    assert found.recipe.optimizer.lr == pytest.approx(0.1 * (1 + 8 - 1))


@pytest.mark.parametrize("rate", RATE_RULES)
@pytest.mark.parametrize("batch_size", [16, 512, 1024])
def test_decoupled_decay_forgets_as_much_for_each_example_exactly(rate: str | None, batch_size: int) -> None:
    rules = [rate, "same_memory"] if rate else ["same_memory"]
    found, tuned = adam(moved(ADAM, batch_size, *rules)), adam(ADAM)
    kept = (1 - tuned.lr * tuned.weight_decay) ** (batch_size / 128)
    assert 1 - found.lr * found.weight_decay == pytest.approx(kept, rel=1e-12)


@pytest.mark.parametrize(("rate", "power"), [("linear_lr", 0.0), ("sqrt_lr", 0.5), (None, 1.0)])
def test_what_the_rate_leaves_over_goes_to_sgds_decay(rate: str | None, power: float) -> None:
    """Linear: unchanged, to the last bit; square root: x sqrt(kappa); the same rate: x kappa."""
    rules = [rate, "same_memory"] if rate else ["same_memory"]
    result = transfer(SGD, batch_size=1024, rules=rules)
    assert result.recipe.optimizer.weight_decay == pytest.approx(5e-4 * 8**power, rel=1e-12)
    assert ("optimizer.weight_decay" in {change.field for change in result.changes}) is (power > 0)


@pytest.mark.parametrize("optimizer", [RmsProp(lr=0.01, weight_decay=1e-4), Adagrad(lr=0.01, weight_decay=1e-4)])
def test_an_adaptive_optimizer_with_coupled_decay_is_refused(optimizer: Optimizer) -> None:
    with pytest.raises(RequestError, match=r"same_memory needs decoupled weight decay, or SGD; optimizer\.type is"):
        moved(SGD.replace(optimizer=optimizer), 256, "default")


def test_a_decay_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match=r"optimizer\.lr x optimizer\.weight_decay below 1, got 2 x 0\.5"):
        moved(ADAM.replace(optimizer=AdamW(lr=2.0, weight_decay=0.5)), 256, "same_memory")


def test_moments_and_averages_keep_their_half_life_in_examples() -> None:
    found = moved(ADAM, 1024, "beta2_half_life", "average_half_life")
    assert adam(found).betas == pytest.approx((0.9, 0.999**8), rel=1e-12)
    assert isinstance(found.averaging, Ema)
    assert found.averaging.decay == pytest.approx(0.999**8, rel=1e-12)
    half_life = [math.log(0.5) / math.log(beta) * size for beta, size in ((0.999, 128), (adam(found).betas[1], 1024))]
    assert half_life[0] == pytest.approx(half_life[1])
    rms = moved(SGD.replace(optimizer=RmsProp(lr=0.01, alpha=0.99)), 64, "beta2_half_life").optimizer
    assert isinstance(rms, RmsProp)
    assert rms.alpha == pytest.approx(math.sqrt(0.99))


def test_a_beta2_outside_what_was_tried_is_doubted() -> None:
    def doubts(batch_size: int) -> tuple[str, ...]:
        return transfer(ADAM, batch_size=batch_size, rules="beta2_half_life").warnings

    assert doubts(1024) == ()
    assert "decay 0.996996 " not in str(doubts(384))
    assert doubts(128 * 200)[0].startswith("the second moment's decay 0.818649 (1 - 0.181) is outside 0.9 to 0.99995")
    assert doubts(4)[0].startswith("the second moment's decay 0.999969 (1 - 3.13e-05) is outside")


def test_the_sde_rule_is_malladis() -> None:
    found = adam(moved(ADAM.replace(optimizer=AdamW(lr=1e-3, eps=1e-6)), 512, "adam-sde"))
    assert found.lr == pytest.approx(2e-3)
    assert found.betas == pytest.approx((0.6, 0.996))
    assert found.eps == pytest.approx(5e-7)
    with pytest.raises(RequestError, match=r"kappa \(1 - beta1\) = 16 x 0\.1 = 1\.6 must be below 1"):
        moved(ADAM, 2048, "sde_betas")


def test_the_clipping_threshold_follows_the_gradients_size() -> None:
    """E|g|^2 = |G|^2 (1 + B_n/B): 1 + 7 at batch 100, 1 + 1 at 700."""
    recipe = ADAM.replace(batch_size=100)
    found = transfer(recipe, batch_size=700, rules="noise_clip", facts=KNOWN)
    assert found.recipe.max_grad_norm == pytest.approx(math.sqrt(2 / 8))
    unknown = transfer(recipe, batch_size=700, rules="noise_clip")
    assert unknown.recipe.max_grad_norm == 1.0
    assert unknown.warnings == (
        "max_grad_norm stays, and binds less often than before: a --noise-scale would say how to move it",
    )
    assert transfer(recipe.replace(max_grad_norm=None), batch_size=700, rules="noise_clip").warnings == ()


@pytest.mark.parametrize("budget", [Epochs(100), Steps(10_000), Examples(1_280_000)])
def test_the_same_loss_takes_what_the_hyperbola_says(budget: Budget) -> None:
    """B_c = 384 = 3 B at the old batch size, 3/8 of it at the new."""
    found = transfer(
        SGD.replace(budget=budget), batch_size=1024, rules="same_loss", facts=Facts(critical_batch_size=384.0)
    )
    factor = ((1 + (3 / 8) ** 1.4) / (1 + 3**1.4)) ** (1 / 1.4)
    amounts = {Epochs: 100 * 8 * factor, Steps: round(10_000 * factor), Examples: round(1_280_000 * 8 * factor)}
    after = found.recipe.budget
    amount = next(getattr(after, name) for name in ("epochs", "steps", "examples") if hasattr(after, name))
    assert amount == pytest.approx(amounts[type(budget)])
    assert found.expected is not None
    assert found.expected.examples_factor.estimate == pytest.approx(8 * factor)
    assert found.expected.steps_factor.estimate == pytest.approx(factor)


def test_the_expected_price_has_the_bounds_of_what_was_measured() -> None:
    found = expected(100, 400, Interval(300.0, 0.0, math.inf))
    seen = 4 * ((1 + 0.75**1.4) / (1 + 3**1.4)) ** (1 / 1.4)
    assert found.examples_factor.estimate == pytest.approx(seen)
    assert found.examples_factor.low == pytest.approx(1.0)
    assert found.examples_factor.high == 4.0
    down = expected(400, 100, Interval(300.0, 0.0, math.inf))
    assert down.examples_factor.estimate == pytest.approx(1 / seen)
    assert down.steps_factor.low == 1.0
    assert down.steps_factor.high == pytest.approx(4.0)
    assert transfer(SGD, batch_size=256).expected is None


def test_a_warm_up_keeps_its_examples_and_adams_two_lifetimes() -> None:
    # The same epochs: the same share, but beta2 = .999^8 wants 2/(1 - beta2) = 251 steps of 4,900.
    found = moved(ADAM, 1024, "beta2_half_life", "same_epochs", "same_warmup")
    assert found.schedule.warmup == 0.1  # 490 steps
    short = ADAM.replace(schedule=Cosine(warmup=0.01))  # 391 steps, 49 at kappa 8
    found = moved(short, 1024, "beta2_half_life", "same_epochs", "same_warmup")
    assert found.schedule.warmup * total_steps(found, N) == pytest.approx(2 / (1 - 0.999**8))
    # Not longer, in steps, than it was tuned.
    found = moved(short.replace(schedule=Cosine(warmup=0.001)), 1024, "same_epochs", "same_warmup")
    assert found.schedule.warmup * total_steps(found, N) == pytest.approx(0.001 * 39_100)
    # The same steps are kappa times the examples: a share of 1/kappa, and the floor.
    found = moved(ADAM, 1024, "same_steps", "same_warmup")
    assert found.schedule.warmup == pytest.approx(2 / (1 - 0.999) / 39_100)
    sgd = moved(SGD.replace(schedule=Cosine(warmup=0.1)), 1024, "same_steps", "same_warmup")
    assert sgd.schedule.warmup == pytest.approx(0.1 / 8, rel=1e-3)
    assert moved(SGD, 1024, "same_warmup").schedule == Constant()


def test_a_long_warm_up_stays_and_an_unknown_floor_is_told() -> None:
    long = ADAM.replace(schedule=Cosine(warmup=0.7))
    assert moved(long, 256, "same_epochs", "same_warmup").schedule.warmup == 0.7
    found = transfer(ADAM, batch_size=256, rules=["same_epochs", "same_warmup"])
    assert found.warnings[0].startswith("without N the steps of the warm-up are not known")


def test_nothing_was_edited_where_rules_read_each_other() -> None:
    """The floor of the warm-up follows from the new beta2: a chain of defaults has nothing to warn of."""
    tuned = ADAM.replace(schedule=Cosine(warmup=0.01), averaging=None, max_grad_norm=None)
    facts = Facts(knee=Knee(batch_size=1000.0, exponent=0.7, bend=4.0))
    there = transfer(tuned, batch_size=512, examples=N, facts=facts)
    again = transfer(there.recipe, batch_size=1024, examples=N, facts=facts)
    assert (there.warnings, again.warnings) == ((), ())


def test_a_decay_that_would_flip_weights_is_refused() -> None:
    start = SGD.replace(batch_size=16, optimizer=Sgd(lr=0.5, weight_decay=5e-3))
    with pytest.raises(RequestError, match=r"optimizer\.lr x weight_decay would be 10\.2"):
        transfer(start, batch_size=65_536, rules=["gain_lr", "same_memory"], facts=Facts(noise_scale=20.0))


def test_a_noise_scale_of_at_least_so_much_is_the_linear_rule_with_a_bound() -> None:
    facts = Facts(noise_scale=Interval(math.inf, 100.0, math.inf))
    found = transfer(SGD, batch_size=1024, rules="gain_lr", facts=facts)
    assert found.recipe.optimizer.lr == pytest.approx(0.8)
    assert found.lr is not None
    alone = math.log((1 + 100 / 128) / (1 + 100 / 1024) / 8)
    tried = rate_interval(0.8, 8.0, "unknown")
    assert math.log(found.lr.low / 0.8) == pytest.approx(-math.hypot(alone, math.log(tried.low / 0.8)))
    assert found.lr.high == pytest.approx(tried.high)  # the noise scale has no more to give
    with pytest.raises(RequestError, match="the estimate of noise_scale must be positive, got 0"):
        Facts(noise_scale=Interval(0.0, 0.0, 100.0))


@pytest.mark.parametrize("rules", ["linear", "gain_lr", "default"])
def test_a_rate_of_sgd_is_as_doubtful_as_one_without_a_knee_was_where_it_was_tried(rules: str) -> None:
    facts = Facts(noise_scale=1e12)
    for size in (32, 512):
        found = transfer(SGD, batch_size=size, rules=rules, facts=Facts() if rules == "linear" else facts)
        lr = found.recipe.optimizer.lr
        assert found.lr == rate_interval(lr, size / 128, "unknown")
    assert transfer(SGD, batch_size=512, rules="default", facts=Facts()).lr == rate_interval(0.4, 4.0, "unknown")


def test_nobody_knows_how_far_a_rule_of_another_optimizer_is_off() -> None:
    assert transfer(ADAM, batch_size=256, rules=["linear_lr", "same_epochs"]).lr is None
    assert transfer(ADAM, batch_size=256, rules=["gain_lr", "same_epochs"], facts=Facts(noise_scale=100.0)).lr is None
    assert transfer(SGD, batch_size=512, rules=["sqrt_lr", "same_epochs"]).lr is None
    assert transfer(ADAM, batch_size=256, rules=["sqrt_lr", "same_epochs"]).lr is not None


def test_a_full_batch_without_noise_leaves_the_bound_open() -> None:
    """From N examples on, at a noise scale without upper bound, the best rate of fewer may be as low as it likes."""
    facts = Facts(noise_scale=Interval(500.0, 100.0, math.inf))
    found = transfer(SGD.replace(batch_size=1000), batch_size=100, rules="gain_lr", examples=1000, facts=facts)
    assert found.lr is not None
    assert found.lr.low == 0.0


def test_an_eigenvalue_is_used_or_said_not_to_be() -> None:
    facts = Facts(top_eigenvalue=10.0, noise_scale=1e9)
    for rules in ("linear", "gain_lr", "default_lr"):
        for recipe in (SGD, with_loss_reduction(SGD, "sum")):
            doubts = transfer(recipe, batch_size=1024, rules=rules, facts=facts).warnings
            assert any(doubt.startswith("optimizer.lr 0.8 is beyond the edge") for doubt in doubts)
    doubts = transfer(ADAM, batch_size=256, facts=facts).warnings
    assert any("top eigenvalue is not used" in doubt for doubt in doubts)


def test_clipping_in_steps_and_to_a_norm_are_doubted() -> None:
    recipe = SGD.replace(max_grad_norm=1.0, clip_steps=500, clip_mode="normalize")
    doubts = transfer(recipe, batch_size=1024, rules="noise_clip").warnings
    assert "clip_steps stays at 500 steps, which see 8 times the examples" in doubts
    assert "fixes the same length for a gradient of another" in doubts[1]


def test_a_warm_up_never_eats_the_run() -> None:
    tiny = ADAM.replace(budget=Epochs(1), schedule=Cosine(warmup=0.4), batch_size=16)
    found = transfer(tiny, batch_size=1024, rules=["same_epochs", "same_warmup"], examples=N)
    assert found.recipe.schedule.warmup == 0.5
    assert found.warnings == ("the warm-up would take 50% of the run or more: so few steps hardly train at all",)


def test_legw_multiplies_the_epochs_of_warm_up() -> None:
    recipe = SGD.replace(schedule=Cosine(warmup=0.02))
    assert moved(recipe, 1024, "legw_warmup").schedule.warmup == pytest.approx(0.16)
    with pytest.raises(RequestError, match=r"0\.02 of it times kappa = 64 is 1\.28"):
        moved(recipe, 8192, "legw_warmup")


class TestTheDefaultRate:
    def of(self, start: Recipe, batch_size: int, facts: Facts) -> Transfer:
        return transfer(start, batch_size=batch_size, rules="default_lr", facts=facts)

    def test_sgd_takes_the_knee_then_the_gain_then_a_small_kappa(self) -> None:
        noise = Facts(noise_scale=700.0)
        assert self.of(SGD, 1024, KNOWN).recipe == moved(SGD, 1024, "knee_lr")
        assert self.of(SGD, 4096, noise).recipe == transfer(SGD, batch_size=4096, rules="gain_lr", facts=noise).recipe
        bare = self.of(SGD, 1024, Facts())
        assert bare.recipe.optimizer.lr == pytest.approx(0.8)
        assert bare.warnings == ("the linear rule holds below the noise scale, which is not given",)
        assert self.of(SGD, 2, Facts()).recipe.optimizer.lr == pytest.approx(0.1 / 64)

    def test_adam_takes_the_knee_then_half_the_noise_scale_then_the_square_root(self) -> None:
        assert self.of(ADAM, 1024, KNOWN).recipe == moved(ADAM, 1024, "knee_lr")
        half = self.of(ADAM, 1024, Facts(noise_scale=700.0))
        curve = Knee(batch_size=350.0, exponent=0.75)
        assert half.recipe.optimizer.lr == pytest.approx(1e-3 * curve.factor(128, 1024))
        assert "half the noise scale did not hold on two small nets" in half.warnings[0]
        assert self.of(ADAM, 512, Facts()).recipe.optimizer.lr == pytest.approx(2e-3)

    @pytest.mark.parametrize(
        ("start", "way_out"), [(SGD, "--rules linear"), (ADAM, "--rules sqrt_lr,same_epochs")], ids=["sgd", "adamw"]
    )
    def test_beyond_kappa_8_it_asks_for_a_measurement(self, start: Recipe, way_out: str) -> None:
        with pytest.raises(RequestError, match=rf"kappa is 9: beyond 8 .* fails on many; .* with {way_out}"):
            self.of(start, 128 * 9, Facts())

    @pytest.mark.parametrize(("start", "name"), [(SGD, "linear"), (ADAM, "square-root")], ids=["sgd", "adamw"])
    def test_a_long_way_down_is_doubted_where_nothing_is_known(self, start: Recipe, name: str) -> None:
        said = f"below 1/8 the {name} rule gave half to two thirds of the best rate"
        bare = start.replace(max_grad_norm=None, averaging=None)
        for rules in ("default_lr", "linear_lr" if start is SGD else "sqrt_lr"):
            for size, facts, count in ((8, Facts(), 1), (16, Facts(), 0), (2048, Facts(), 0), (8, KNOWN, 0)):
                if (size, rules) != (2048, "default_lr"):  # which is refused
                    doubts = transfer(bare, batch_size=size, rules=rules, facts=facts).warnings
                    assert sum(said in doubt for doubt in doubts) == count, (rules, size)

    def test_a_rate_beyond_the_edge_of_stability_is_doubted(self) -> None:
        # 2 (1 + .9) / 10 = .38 is between the linear rates of kappa 2 and 8.
        doubts = [self.of(SGD, size, Facts(noise_scale=1e9, top_eigenvalue=10.0)).warnings for size in (256, 1024)]
        assert doubts[0] == ()
        assert doubts[1][0].startswith("optimizer.lr 0.8 is beyond the edge of stability at a top eigenvalue of 10")


class TestTheRun:
    GROWS = SGD.replace(batch_schedule=((0.5, 2.0), (0.75, 4.0)))

    def test_with_a_contrastive_loss_follows_no_rule(self) -> None:
        facts = Facts(contrastive=True, critical_batch_size=384.0, noise_scale=Interval(300.0, 200.0, 400.0))
        for rules in ("default", "linear", "hoffer"):
            found = transfer(SGD, batch_size=512, rules=rules, examples=N, facts=facts)
            assert found.warnings[0].startswith("a contrastive loss takes its negatives from the batch: another batch")
            assert (found.expected, found.lr) == (None, None)
        assert "contrastive" not in str(transfer(SGD, batch_size=512).warnings)
        with pytest.raises(RequestError, match="same_loss has no meaning for a contrastive loss"):
            transfer(SGD, batch_size=512, rules="same_loss", facts=facts)

    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            (
                Facts(noise_scale=900.0),
                "the batch grows to 1024, beyond the noise scale there, 900: from then on it ",
            ),
            (Facts(noise_scale=1100.0), ""),
            (
                Facts(noise_scale=9000.0, critical_batch_size=300.0),
                "to 1024, beyond the critical batch size there, 300",
            ),
            (Facts(), ""),
        ],
    )
    def test_whose_batch_grows_too_far_is_doubted(self, facts: Facts, said: str) -> None:
        doubts = str(transfer(self.GROWS, batch_size=256, rules="linear", facts=facts).warnings)
        assert said in doubts
        assert ("the batch grows" in doubts) is bool(said)
        assert "the batch grows" not in str(transfer(SGD, batch_size=1024, rules="linear", facts=facts).warnings)

    @pytest.mark.parametrize(("early", "late", "doubted"), [(300.0, 2000.0, False), (2000.0, 300.0, True)])
    def test_grows_as_far_as_the_noise_scale_of_that_time(self, early: float, late: float, doubted: bool) -> None:
        parts = tuple((0.5, Interval(each, 0.0, math.inf)) for each in (early, late))
        facts = Facts(noise_course=NoiseCourse(whole=Interval(600.0, 500.0, 700.0), parts=parts))
        doubts = transfer(self.GROWS, batch_size=256, rules="linear", facts=facts).warnings
        assert (
            "the batch grows to 1024, perhaps beyond the noise scale there, not resolved: " in str(doubts)
        ) is doubted


@pytest.mark.parametrize("name", ["noise_scale", "critical_batch_size", "top_eigenvalue"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_fact_is_a_positive_number(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"{name} must be positive, got .*; leave it out if it is unknown"):
        Facts(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "asked"), [("gain_lr", "--noise-scale"), ("knee_lr", "--knee"), ("same_loss", "--critical-batch-size")]
)
def test_a_rule_that_needs_a_measurement_says_how_to_get_it(rule: str, asked: str) -> None:
    with pytest.raises(RequestError, match=f"{rule} needs .*{asked}"):
        transfer(SGD, batch_size=256, rules=rule)


def test_every_rule_says_its_formula_its_source_and_where_it_holds() -> None:
    for rule in RULES.values():
        assert rule.formula
        assert rule.source
        assert rule.holds
        assert rule.evidence
    assert {name for preset in PRESETS.values() for name in preset} <= set(RULES)


def test_changes_carry_evidence_and_defaults_are_spelled_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = transfer(ADAM, batch_size=512, facts=Facts(noise_scale=700.0))
    changes = {change.field: change for change in result.changes}
    assert changes["optimizer.betas"].before == (0.9, 0.999)
    assert (changes["batch_size"].evidence, changes["max_grad_norm"].evidence) == ("", "weak")
    write_recipe(ADAM, tmp_path / "adam.toml")
    facts = ["--noise-scale", "700", "--critical-batch-size", "384", "--top-eigenvalue", "3", "--knee", "1000"]
    assert run(["transfer", str(tmp_path / "adam.toml"), "--batch-size", "512", *facts]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "for the same loss, each batch size at its best rate: steps x 0.418, examples x 1.67" in out
    assert "bends flat at a knee of 1000" in out
    assert "(weak evidence)" in out
