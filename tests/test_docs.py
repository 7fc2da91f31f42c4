"""Every code block of README and docs runs; every public name has a docstring; every doctest holds."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import rebatch
from rebatch.cli.main import run
from rebatch.report.evidence_table import evidence_markdown
from rebatch.rules.table import PRESETS, RULES
from rebatch.study.evidence import evidence
from rebatch.tasks import TASKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Commands that other tests run, or that need data which tests may not download; all others run here.
ELSEWHERE = {
    "rebatch data fetch mnist": "downloads; tests/data/test_fetch.py does it from a local server",
    "rebatch train large.toml --task mnist/f1": "needs MNIST; tests/cli/test_cli.py does it on digits",
    "rebatch study run hoffer-gap --task digits": "tests/test_end_to_end.py",
    "rebatch train small.toml --task digits --store small": "is to be stopped; tests/study/test_continuing.py",
    "rebatch train large.toml --task digits --store large --continue small": "tests/study/test_continuing.py",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(block)
    for line in "".join(blocks(page, "sh")).splitlines():
        command = line.partition("#")[0].strip()
        if command.startswith("scripts/"):
            assert (ROOT / command.split()[0]).exists()
        elif command.startswith("rebatch") and command not in ELSEWHERE:
            assert run(shlex.split(command)[1:]) == 0, command


def test_the_recipe_of_the_readme_is_the_papers_regime_for_f1() -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    assert rebatch.loads_recipe(text) == TASKS["mnist/f1"].recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_of_a_page_are_recipes(page: Path) -> None:
    for text in blocks(page, "toml"):
        rebatch.loads_recipe(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def modules() -> list[ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(rebatch.__path__, "rebatch.")]
    return [rebatch, *(importlib.import_module(name) for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_every_public_name_exists_and_is_documented() -> None:
    for module in modules():
        assert module.__doc__, module.__name__
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert inspect.getdoc(value), f"{module.__name__}.{name}"
        assert list(getattr(module, "__all__", [])) == sorted(getattr(module, "__all__", []))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("reproducing-hoffer.md", "Hoffer"),
        ("reproducing-page.md", "Page"),
        ("why-mini-batches.md", "Mini-batches"),
        ("closing-the-gap.md", "rebatch: closing the gap"),
    ],
)
def test_the_claims_of_the_page_are_what_the_kept_results_say(name: str, source: str) -> None:
    """Mend with: rebatch study list --markdown --source hoffer (or mini-batches)."""
    page = (ROOT / "docs" / name).read_text()
    table = page.partition("<!-- claims -->\n")[2].partition("<!-- /claims -->")[0]
    assert table == evidence_markdown([study for study in evidence() if study.source.startswith(source)])


def test_the_arms_of_closing_the_gap_are_what_the_kept_result_says() -> None:
    kept = json.loads((ROOT / "results" / "close-gap" / "digits-mlp-cpu.json").read_text())
    page = (ROOT / "docs" / "closing-the-gap.md").read_text()
    listed = page.partition("<!-- arms -->\n")[2].partition("<!-- /arms -->")[0]
    rows = []
    for arm in kept["arms"]:
        accuracy = arm["accuracy"]
        shown = f"{accuracy['mean']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}]"
        rows.append(f"| `{arm['name']}` | {arm['steps']:,} | {shown} |\n")
    assert listed == "".join(["| arm | steps | test accuracy, % |\n", "|---|---|---|\n", *rows])


def test_the_switches_of_closing_the_gap_are_what_the_kept_result_says() -> None:
    kept = json.loads((ROOT / "results" / "late-switch" / "digits-mlp-cpu.json").read_text())
    means = {arm["name"]: f"{arm['accuracy']['mean']:.2f}" for arm in kept["arms"]}
    page = (ROOT / "docs" / "closing-the-gap.md").read_text()
    listed = page.partition("<!-- switches -->\n")[2].partition("<!-- /switches -->")[0]
    rows = [
        f"| {first} first | {' | '.join(means[f'{first}_first:{switch}'] for switch in (0.25, 0.5, 0.75))} |\n"
        for first in ("large", "small")
    ]
    assert listed == "".join(["| test accuracy, % | switch after 1/4 | 1/2 | 3/4 |\n", "|---|---|---|---|\n", *rows])
    assert f"All small: {means['small_batch']} in 640 steps; all large: {means['large_batch']} in 40." in page


def test_the_rules_of_the_page_are_those_of_the_table() -> None:
    page = (ROOT / "docs" / "choosing-a-rule.md").read_text()
    listed = page.partition("<!-- rules -->\n")[2].partition("<!-- /rules -->")[0]
    for rule in RULES.values():
        fields = ", ".join(f"`{field}`" for field in rule.sets)
        row = f"| `{rule.name}` | {fields} | {rule.formula} | {rule.holds} | {rule.evidence} | {rule.source} |\n"
        assert row in listed
    for name, rules in PRESETS.items():
        assert f"| `{name}` | {', '.join(f'`{rule}`' for rule in rules)} |\n" in listed
        assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert listed.count("\n") == len(RULES) + len(PRESETS) + 5


def test_the_table_of_the_readme_is_what_the_kept_result_says() -> None:
    """Every row of the demo's table, and every verdict, stands in results/ as the README prints it."""
    kept = json.loads((ROOT / "results" / "hoffer-gap" / "digits-mlp-quick.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for arm in kept["arms"]:
        accuracy = arm["accuracy"]
        shown = f"{accuracy['mean']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}]"
        assert re.search(rf"^{re.escape(arm['name'])} +{arm['batch_size']} .*{re.escape(shown)}", readme, re.MULTILINE)
    for claim in kept["claims"]:
        assert re.search(rf"^{re.escape(claim['id'])} .*{claim['verdict']}", readme, re.MULTILINE), claim["id"]
    assert kept["command"] == "rebatch study run hoffer-gap --task digits --json"
