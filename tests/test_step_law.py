"""The benchmark over finished runs: on a made table whose law is known the fitted rule finds it, others do not."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rebatch.knee import DOUBTS, language_model_knee

ROOT = Path(__file__).parents[1]
HEADER = "group,N,D,lr,batch_tokens,loss\n"
SIZES = [1_000 * 2**power for power in range(7)]
RATES = [2.0 ** (step / 2) for step in range(-10, 8)]


def table(noise: float) -> str:
    """Six groups of two model sizes, K = 8,000 (D / 2e10)^.5 tokens, a hinge with exponent .8, parabolas around it."""
    rng, lines = np.random.default_rng(0), []
    for group, (n, d) in enumerate([(1e8, 5e9), (1e8, 2e10), (1e8, 8e10), (4e8, 1e10), (4e8, 2e10), (4e8, 4e10)]):
        knee, height = 8_000 * math.sqrt(d / 2e10), 0.3 * rng.normal()
        for size in SIZES:
            best = height + 0.8 * math.log(min(size, knee) / knee)
            for lr in RATES:
                loss = 2 + 0.1 * group + 0.02 * (math.log(lr) - best) ** 2 + noise * rng.normal()
                lines.append(f"g{group},{n},{d},{lr},{size},{loss}\n")
    return HEADER + "".join(lines)


def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/step_law.py", str(path), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_text(table(noise=0.0005))
    done = run(path, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_all_groups_and_pairs_count(found: dict[str, Any]) -> None:
    assert found["groups"] == 6
    assert found["curves"] == 42
    assert found["pairs"] == {"up": 6 * 21, "down": 6 * 21}


def test_the_rule_fitted_on_other_groups_beats_all_that_are_not_fitted(found: dict[str, Any]) -> None:
    fitted = found["rules"]["fitted K(D), groups left out"]
    for name in ("constant", "kappa^.25", "sqrt", "linear", "published K, default"):
        for side in ("up", "down"):
            assert fitted[side]["mean"] < 0.5 * found["rules"][name][side]["mean"], (name, side)
    assert fitted["exponent"]["least"] == pytest.approx(0.8, abs=0.08)
    assert fitted["of_tokens"]["least"] == pytest.approx(0.5, abs=0.1)
    assert {"hinge", "8"} >= set(fitted["bends"])


def test_the_regret_of_the_constant_rate_is_that_of_the_parabola(found: dict[str, Any]) -> None:
    """Worked out: .02 (ln of the ratio of the best rates)^2, up to the noise and the lines between runs."""
    expected = []
    for d in (5e9, 2e10, 8e10, 1e10, 2e10, 4e10):
        rates = [0.8 * math.log(min(size, 8_000 * math.sqrt(d / 2e10))) for size in SIZES]
        expected += [0.02 * (there - here) ** 2 for i, here in enumerate(rates) for there in rates[i + 1 :]]
    assert found["rules"]["constant"]["up"]["mean"] == pytest.approx(float(np.mean(expected)), rel=0.1)


def test_intervals_of_the_rate_cover_about_their_level(found: dict[str, Any]) -> None:
    """Six groups are few: what is tested is that the calibration left out the group that it is tried on."""
    assert 0.75 <= found["rules"]["fitted K(D), groups left out"]["coverage"]["mean"] <= 0.98
    assert found["rules"]["fitted K(D), groups left out"]["half_width"] < 0.3


def test_a_table_is_printed_without_json(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(table(noise=0.002))
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert "fitted K(D, N), groups left out" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr,loss\n.1,2\n", r"needs the columns group, N, D, lr, batch_tokens, loss; it has no 'group'"),
        (HEADER + "a,1,1,x,1,1\n", r"holds something that is no positive number: could not convert .* 'x'"),
        (HEADER + "a,1,1,0,1,1\n", r"holds something that is no positive number"),
        (HEADER + "a,1,1,1,1,1\n", r"leaving groups out needs at least 4 that count \(5 batch sizes each\), got 0"),
    ],
)
def test_a_faulty_table_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    done = run(path, "--json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)


def shown(found: dict[str, float], digits: int = 4) -> str:
    mean, low, high = (f"{found[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return re.sub(r"(?<!\d)0\.", ".", f"{mean} [{low}, {high}]")


def test_the_docs_and_the_library_say_what_the_kept_result_says() -> None:
    kept = json.loads((ROOT / "results" / "benchmarks" / "step_law.json").read_text())
    page = (ROOT / "docs" / "choosing-a-rule.md").read_text()
    for name, row in kept["rules"].items():
        assert f"| {name} | {shown(row['up'])} | {shown(row['down'])} |" in page, name
    for name, row in kept["sweeps"].items():
        assert f"| {name} | {shown(row['regret'])} | {100 * row['coverage']['mean']:.1f} % |" in page, name
    for known, doubt in kept["doubts"].items():
        assert DOUBTS[known]._asdict() == {name: round(value, 2) for name, value in doubt.items()}
    by_distance = kept["sqrt_by_distance"]
    for name in (key.removeprefix("up, ") for key in by_distance if key.startswith("up")):
        up, down = by_distance[f"up, {name}"], by_distance[f"down, {name}"]
        sides = [each for side in (up, down) for each in (shown(side["regret"]), shown(side["carried_over_best"], 2))]
        assert f"| {name} | {' | '.join(sides)} |" in page, name
    law = kept["law_of_all"]["bend 4"]
    for tokens, parameters in ((2e10, 4e8), (4e9, 2e8), (1e11, 1e9)):
        knee = math.exp(law["c"]) * (tokens / 2e10) ** law["d"] * (parameters / 4e8) ** law["n"]
        assert language_model_knee(tokens, parameters).batch_size == pytest.approx(knee, rel=0.01)


def test_the_kept_result_reaches_its_goals() -> None:
    kept = json.loads((ROOT / "results" / "benchmarks" / "step_law.json").read_text())
    goals = kept["goals"]
    for name in ("fitted K(D), groups left out", "fitted K(D, N), groups left out"):
        row = kept["rules"][name]
        assert row["up"]["mean"] <= goals["up"]
        assert row["down"]["mean"] <= goals["down"]
        assert goals["coverage"][0] <= row["coverage"]["mean"] <= goals["coverage"][1]
