"""The benchmark over a published table of tuned rates, by hand and as its page repeats it."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_batches", ROOT / "benchmarks" / "tiny_batches.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_batches"] = module
    spec.loader.exec_module(module)
    return module


def test_rates_are_carried_as_by_hand(benchmark: ModuleType) -> None:
    sizes = (1, 16, 256)  # .0017, .0020, .0050
    constant = benchmark.from_one(0.0, sizes)
    assert len(constant) == 6
    assert constant[1, 256] == pytest.approx(math.log(0.0017 / 0.0050))
    assert benchmark.from_one(0.5, sizes)[256, 16] == pytest.approx(math.log(0.0050 / 4 / 0.0020))
    through_two = benchmark.from_two(sizes)
    assert set(through_two) == {(1, 16, 256), (1, 256, 16), (16, 256, 1)}
    assert through_two[1, 256, 16] == pytest.approx(math.log(math.sqrt(0.0017 * 0.0050) / 0.0020))


def test_a_summary_tells_the_share_and_the_factors(benchmark: ModuleType) -> None:
    found = benchmark.summary([math.log(1.2), -math.log(1.4), math.log(3.0), math.log(3.0)])
    assert (found["predictions"], found["near"], found["worst"]) == (4, 0.5, pytest.approx(3.0))
    squares = math.log(1.2) ** 2 + math.log(1.4) ** 2 + 2 * math.log(3.0) ** 2
    assert found["factor"] == pytest.approx(math.exp(math.sqrt(squares / 4)))


def test_the_kept_result_and_the_page_are_what_it_prints(benchmark: ModuleType) -> None:
    kept = json.loads((ROOT / "results" / "benchmarks" / "tiny_batches.json").read_text())
    assert kept["found"] == json.loads(json.dumps(benchmark.measured()))
    page = (ROOT / "docs" / "choosing-a-rule.md").read_text()
    assert page.partition("<!-- tiny -->\n")[2].partition("<!-- /tiny -->")[0] == benchmark.markdown(kept["found"])
