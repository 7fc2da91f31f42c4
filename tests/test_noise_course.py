"""The price of a noise scale that drifts: known answers, coverage, the file from `measure` to `transfer`."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rebatch.cli.main import run
from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.noise_course import NoiseCourse, read_noise_course
from rebatch.noise_scale import estimate_noise_scale
from rebatch.price import Stage, examples_factor, expected_along
from rebatch.recipe import AdamW, Epochs, Recipe, Sgd, Steps
from rebatch.recipe_file import read_recipe, to_table, write_recipe
from rebatch.rules.move import Facts
from rebatch.tasks import TASKS
from rebatch.transfer import transfer

SGD = Recipe(batch_size=64, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(10))
WHOLE = Interval(400.0, 300.0, 600.0)


def known(value: float) -> Interval:
    return Interval(value, value, value)


def course(*parts: tuple[float, Interval]) -> NoiseCourse:
    return NoiseCourse(whole=WHOLE, parts=parts, source="a run")


class TestThePrice:
    def test_is_the_mean_over_the_run_and_not_that_of_its_mean(self) -> None:
        facts = Facts(noise_course=course((0.75, known(50.0)), (0.25, known(5_000.0))))
        found = transfer(SGD, batch_size=512, examples=1000, facts=facts).expected
        assert found is not None
        mean = 0.75 * examples_factor(64, 512, 50.0) + 0.25 * examples_factor(64, 512, 5_000.0)
        assert found.examples_factor.estimate == pytest.approx(mean, rel=1e-12)
        assert found.steps_factor.estimate == pytest.approx(mean / 8, rel=1e-12)
        assert found.examples_factor.estimate != pytest.approx(examples_factor(64, 512, 400.0), rel=0.1)

    def test_a_window_that_is_not_resolved_may_cost_all_or_nothing(self) -> None:
        facts = Facts(noise_course=course((0.5, known(50.0)), (0.5, Interval(400.0, 0.0, math.inf))))
        found = transfer(SGD, batch_size=512, facts=facts).expected
        assert found is not None
        sure = examples_factor(64, 512, 50.0)
        assert found.examples_factor.low == pytest.approx((sure + 1.0) / 2)
        assert found.examples_factor.high == pytest.approx((sure + 8.0) / 2)

    def test_of_a_batch_that_grows_is_that_of_each_of_its_sizes(self) -> None:
        """Half of the examples at 64, in 8 steps, half at 256, in 2."""
        grows = SGD.replace(batch_schedule=((0.5, 4.0),))
        found = transfer(grows, batch_size=128, facts=Facts(critical_batch_size=300.0)).expected
        assert found is not None
        small, large = examples_factor(64, 128, 300.0), examples_factor(256, 512, 300.0)
        assert found.examples_factor.estimate == pytest.approx((small + large) / 2)
        assert found.steps_factor.estimate == pytest.approx((8 * small / 2 + 2 * large / 2) / 10)

    def test_same_loss_lasts_as_long_as_the_price_says(self) -> None:
        facts = Facts(noise_course=course((0.75, known(50.0)), (0.25, known(5_000.0))))
        for tuned in (SGD, SGD.replace(budget=Steps(10_000))):
            found = transfer(tuned, batch_size=512, rules="same_loss", facts=facts)
            assert found.expected is not None
            factor = found.expected.steps_factor.estimate
            steps = found.price.steps_factor
            assert steps == pytest.approx(factor, rel=1e-3)
            assert "by the noise scale in 2 windows of the run" in str(found.changes)

    def test_a_measured_critical_batch_size_goes_first(self) -> None:
        facts = Facts(noise_course=course((1.0, known(50.0))), critical_batch_size=900.0)
        found = transfer(SGD, batch_size=512, facts=facts)
        assert found.expected is not None
        assert found.expected.examples_factor.estimate == pytest.approx(examples_factor(64, 512, 900.0))
        assert "window by window" not in found.notes[0]


def test_rules_that_need_one_number_get_that_of_the_whole_run() -> None:
    facts = Facts(noise_course=course((0.5, known(50.0)), (0.5, known(5_000.0))))
    found = transfer(SGD, batch_size=512, facts=facts)
    assert found.recipe == transfer(SGD, batch_size=512, facts=Facts(noise_scale=WHOLE)).recipe
    assert found.notes == (
        "noise scale from a run: 400 [300, 600] over the whole run, 50 [50, 50] in its first part, "
        "5e+03 [5e+03, 5e+03] in its last; the same loss is priced window by window",
    )
    with pytest.raises(RequestError, match="noise_scale and noise_course each give the noise scale; use one of them"):
        Facts(noise_scale=300.0, noise_course=facts.noise_course)


@pytest.mark.parametrize(
    ("parts", "message"),
    [((), "add up to 1"), (((0.5, WHOLE),), "add up to 1"), (((1.0, Interval(2.0, 3.0, 4.0)),), "its bounds rise")],
)
def test_a_course_is_a_whole_run(parts: tuple[tuple[float, Interval], ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        course(*parts)


def document(path: Path, windows: list[Any], recipe: Recipe = SGD, **changes: object) -> Path:
    """The file of a run in windows of equal length."""
    looks = [{"step": 10 * at, "examples": 640 * at, "noise_scale": each} for at, each in enumerate(windows, start=1)]
    about = {"task": "digits/mlp-plain", "seed": 0, "norm": "euclidean", "recipe": to_table(recipe), "looks": looks}
    path.write_bytes(msgspec.json.encode({**about, **changes}))
    return path


def bounds(estimate: float, half_width: float) -> Interval:
    return Interval(estimate, estimate - half_width, estimate + half_width)


def estimate(trace: Interval, square: Interval, noise: Interval) -> dict[str, object]:
    ends = {name: getattr(noise, name) for name in ("estimate", "low", "high")}
    return {**ends, "trace": trace, "square": square, "steps": 40, "steps_needed": math.nan}


class TestTheFile:
    def test_of_exact_windows_has_the_ratio_of_sums(self, tmp_path: Path) -> None:
        windows = [
            estimate(bounds(100.0, 3.0), bounds(2.0, 0.0), known(50.0)),
            estimate(bounds(300.0, 4.0), bounds(0.5, 0.0), known(600.0)),
        ]
        found = read_noise_course(document(tmp_path / "noise.json", windows), SGD)
        assert found.whole.estimate == pytest.approx(400 / 2.5)  # 160, where the mean of ratios is 325
        assert (found.whole.low, found.whole.high) == pytest.approx((395 / 2.5, 405 / 2.5))  # 3 and 4 make 5
        assert found.parts == ((0.5, known(50.0)), (0.5, known(600.0)))
        assert found.source.endswith("noise.json (digits/mlp-plain, seed 0, 2 windows)")

    def test_windows_that_say_nothing_are_open_at_both_ends(self, tmp_path: Path) -> None:
        resolved = estimate(bounds(100.0, 10.0), bounds(2.0, 0.1), Interval(50.0, 40.0, 60.0))
        at_least = estimate(bounds(100.0, 10.0), bounds(-0.1, 0.3), Interval(math.inf, 300.0, math.inf))
        broken = estimate(bounds(100.0, 10.0), bounds(-2.0, 0.3), known(math.nan))
        found = read_noise_course(document(tmp_path / "noise.json", [resolved, None, at_least, broken]), SGD)
        nothing = Interval(found.whole.estimate, 0.0, math.inf)
        at_least_so_much = Interval(math.inf, 300.0, math.inf)
        assert [part for _, part in found.parts] == [Interval(50.0, 40.0, 60.0), nothing, at_least_so_much, nothing]
        assert math.isinf(found.whole.estimate)  # 2 - .1 - 2 < 0
        assert found.whole.low == pytest.approx((300 - math.sqrt(300)) / (-0.1 + math.sqrt(0.01 + 2 * 0.09)))

    def test_intervals_cover_their_level_along_a_drift(self, tmp_path: Path) -> None:
        """tr(Sigma) = 100 throughout, |G|^2 falls from 4 to .25; each step's pair is correlated."""
        rng, repeats, squares = np.random.default_rng(5), 120, [4.0, 1.0, 0.25]
        truth = 300.0 / sum(squares)
        stages = [Stage(1 / 3, 64, 512, known(100.0 / square)) for square in squares]
        price = expected_along(stages).examples_factor.estimate
        hits = {"whole": 0, "price": 0}
        for _ in range(repeats):
            noise = rng.standard_normal((3, 2, 60)) * 0.5
            windows = [
                estimate_noise_scale(100.0 + 30.0 * own[0], square * (1.0 + own[1] - own[0]))
                for square, own in zip(squares, noise, strict=True)
            ]
            found = read_noise_course(document(tmp_path / "noise.json", windows), SGD)
            moved = transfer(SGD, batch_size=512, facts=Facts(noise_course=found)).expected
            assert moved is not None
            hits["whole"] += found.whole.low <= truth <= found.whole.high
            hits["price"] += moved.examples_factor.low <= price <= moved.examples_factor.high
            assert moved.examples_factor.high / moved.examples_factor.low < 1.5  # and says something
        for name, hit in hits.items():
            assert (hit - 0.95 * repeats) / math.sqrt(repeats * 0.95 * 0.05) > -4, (name, hits)

    def test_of_a_part_of_the_run_is_refused(self, tmp_path: Path) -> None:
        window = estimate(bounds(100.0, 10.0), bounds(2.0, 0.3), known(50.0))
        whole = document(tmp_path / "whole.json", [window, window], examples=1280)
        assert len(read_noise_course(whole, SGD).parts) == 2
        cut = document(tmp_path / "cut.json", [window], examples=1280)
        with pytest.raises(RequestError, match="the looks end after 640 of the run's 1,280 examples"):
            read_noise_course(cut, SGD)

    def test_of_no_noise_scale_is_refused(self, tmp_path: Path) -> None:
        negative = estimate(bounds(100.0, 10.0), bounds(-2.0, 0.3), known(math.nan))
        silent = estimate(bounds(-1.0, 10.0), bounds(2.0, 0.3), Interval(0.0, 0.0, 5.0))
        for windows, message in (
            ([None], "no window has a noise scale: too few steps in each"),
            ([negative], "negative beyond chance"),
            ([silent], r"tr\(Sigma\) is not told from 0"),
            ([], "looks must be one or more"),
        ):
            with pytest.raises(RequestError, match=message):
                read_noise_course(document(tmp_path / "noise.json", windows), SGD)

    @pytest.mark.parametrize(
        ("tuned", "message"),
        [
            (
                SGD.replace(batch_size=128),
                "the run had batch_size 64, and the recipe that was tuned has 128: .*",
            ),
            (SGD.with_lr(0.2), r"the run had optimizer\.lr 0\.1, and the recipe that was tuned has 0\.2"),
            (SGD.replace(budget=Epochs(20)), r"the run had budget\.epochs 10, "),
            (SGD.replace(max_grad_norm=1.0), r"the run had max_grad_norm left out, .* has 1"),
            (SGD.replace(optimizer=AdamW(lr=0.1)), r"the run had optimizer\.type 'sgd', .* has 'adamw'"),
        ],
    )
    def test_of_another_run_is_refused(self, tuned: Recipe, message: str, tmp_path: Path) -> None:
        window = estimate(bounds(100.0, 3.0), bounds(2.0, 0.1), Interval(50.0, 45.0, 55.0))
        path = document(tmp_path / "noise.json", [window])
        assert read_noise_course(path, SGD, "digits/mlp-plain").whole.estimate == 50.0
        with pytest.raises(RequestError, match=message):
            read_noise_course(path, tuned)

    def test_with_bounds_that_fall_is_refused(self, tmp_path: Path) -> None:
        window = estimate(bounds(100.0, 3.0), Interval(2.0, 2.5, 1.5), Interval(50.0, 45.0, 55.0))
        with pytest.raises(RequestError, match=r"bounds must rise, got 2\.5, 2, 1\.5 - at `\$\.looks") as told:
            read_noise_course(document(tmp_path / "noise.json", [window]), SGD)
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not what `rebatch measure noise-scale --json` writes of a run: Input data was truncated"),
            ("lr,batch_size,loss", "is not what `rebatch measure noise-scale --json` writes"),
            ('{"task": "digits"}', "missing required field `seed`"),
            ('{"fit": null}', "missing required field `task`"),
            ('{"task": "\xff"}', "is not what .* writes of a run: 'utf-8' codec can't decode byte 0xff"),
        ],
    )
    def test_of_another_shape_is_refused(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "noise.json").write_text(text, encoding="latin1")
        with pytest.raises(RequestError, match=message):
            read_noise_course(tmp_path / "noise.json", SGD)
        with pytest.raises(RequestError, match="cannot read the noise scale"):
            read_noise_course(tmp_path / "none.json", SGD)

    def test_in_adams_norm_is_not_for_sgd_nor_of_another_task(self, tmp_path: Path) -> None:
        window = estimate(bounds(100.0, 3.0), bounds(2.0, 0.1), Interval(50.0, 45.0, 55.0))
        adam = document(tmp_path / "adam.json", [window], norm="adam")
        with pytest.raises(RequestError, match=r"in Adam's norm, and optimizer\.type is 'sgd'"):
            read_noise_course(adam, SGD)
        tuned = SGD.replace(optimizer=AdamW(lr=0.1))
        assert read_noise_course(document(tmp_path / "adam.json", [window], tuned, norm="adam"), tuned).parts
        with pytest.raises(RequestError, match="the run is one of digits/mlp-plain, and --task is mnist/f1"):
            read_noise_course(adam, SGD, "mnist/f1")


def test_from_a_measured_run_to_a_transferred_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, noise, moved = (str(tmp_path / name) for name in ("recipe.toml", "noise.json", "moved.toml"))
    write_recipe(TASKS["digits/mlp-plain"].recipe.replace(budget=Epochs(2)), Path(recipe))
    task = ["--task", "digits/mlp-plain"]
    assert run(["measure", "noise-scale", *task, "--recipe", recipe, "--looks", "2", "--json"]) == 0
    Path(noise).write_text(capsys.readouterr().out)
    options = [*task, "--noise-scale-from", noise]
    assert run(["transfer", recipe, "--batch-size", "256", *options, "--output", moved, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    looks = json.loads(Path(noise).read_text())["looks"]
    assert looks[-1]["examples"] == json.loads(Path(noise).read_text())["examples"]
    trace, square = (sum(look["noise_scale"][name]["estimate"] for look in looks) for name in ("trace", "square"))
    gain = (1 + trace / square * (1 / 32 - 1 / 1024)) / (1 + trace / square * (1 / 256 - 1 / 1024))
    tuned = found["changes"][1]
    assert tuned["after"] / tuned["before"] == pytest.approx(gain, rel=1e-9)
    assert "noise.json (digits/mlp-plain, seed 0, 2 windows): " in found["notes"][0]
    low, high = found["expected"]["examples_factor"]["low"], found["expected"]["examples_factor"]["high"]
    assert 1.0 <= low < found["expected"]["examples_factor"]["estimate"] < high <= 8.0
    # A chain starts from the recipe that was tuned, whose run it is.
    assert read_recipe(Path(moved)).tuned is not None
    assert run(["transfer", moved, "--batch-size", "128", *options]) == 0
    assert "over the whole run" in " ".join(capsys.readouterr().out.split())
    assert run(["transfer", recipe, "--batch-size", "256", *options, "--noise-scale", "50"]) == 2
    assert "--noise-scale and --noise-scale-from each give the noise scale" in capsys.readouterr().err
