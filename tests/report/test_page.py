import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.report.markup import json_for_script
from rebatch.report.page import write_report
from rebatch.study.claims import AllOf, Claim, Greater
from rebatch.study.plan import Arm, Plan
from rebatch.study.store import Store
from report.made_up import made_up_store

MakeStore = Callable[..., tuple[Store, Plan]]

EVIL = "</script><img src=x onerror=alert(1)>&\"'<!--"
VOID = {"meta", "link", "input", "br", "img"}


def arm(name: str, note: str = "") -> Arm:
    recipe = Recipe(batch_size=7, optimizer=Sgd(lr=0.1 + len(name) / 100), budget=Epochs(3))
    return Arm(name=name, recipe=recipe, note=note)


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "H1",
        "statement": "The large batch is worse",
        "source": "somebody",
        "test": Greater("small_batch", "large_batch", 0.3),
        "expected": None,
        "why": "a reason",
    }
    return Claim(**fields | changes)


class Page(HTMLParser):
    """What stands in a page; fails where an element is not closed in its turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            if self.tags[-1][1].get("type") == "application/json":
                self.data.append(json.loads(data))
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and attributes.items() <= found.items() for t, found in self.tags)


def written(store: Store, tmp_path: Path) -> Page:
    return Page(write_report(store, tmp_path / "report"))


def test_a_complete_study_is_told_in_full(make_store: MakeStore, tmp_path: Path) -> None:
    both = claim(id="H2", test=AllOf((Greater("small_batch", "large_batch"), Greater("large_batch", "large_batch+ra"))))
    store, _ = make_store(claims=(claim(expected=1.5), both), gap=("small_batch", "large_batch"), seeds=5)
    page = written(store, tmp_path)
    for words in (
        "Does a made-up study hold?",
        "15 done, 0 diverged, of 15",
        "97.50 [97.01, 97.99]",
        "more examples",
        "The large batch is worse",
        "a reason",
        "+1.5 inside the interval",
        "large_batch - large_batch+ra > 0: +1.",
        "rebatch study run made-up",
        f"rebatch report {tmp_path / 'store'} --output {tmp_path / 'report'}",
        "Seeds 0 to 4",
        "A processor",
        "22.5 s",
        "batch_size = 23",
    ):
        assert words in page.text, words
    assert page.count("div", **{"class": "plot"}) == len(page.data) == 5
    assert all(found["aria-label"] for tag, found in page.tags if found.get("class") == "plot")
    assert "This study is incomplete" not in page.text


def test_the_page_loads_nothing_and_holds_plotly_once(make_store: MakeStore, tmp_path: Path) -> None:
    store, _ = make_store(claims=(claim(),))
    make_store(study="another")
    page = written(store, tmp_path)
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert text.count("* plotly.js v") == 1
    assert page.count("section") == 2
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), attributes
    policies = [found["content"] for _, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
    assert not re.search(r"@import|url\(", (Path(__file__).parents[2] / "src/rebatch/report/page.css").read_text())


def test_the_page_says_its_language_title_and_width(make_store: MakeStore, tmp_path: Path) -> None:
    store, _ = make_store(claims=(claim(),))
    page = written(store, tmp_path)
    assert page.count("html", lang="en") == page.count("title") == page.count("meta", name="viewport") == 1
    assert page.count("h1") == 1
    assert page.count("th") == page.count("th", scope="col") + page.count("th", scope="row")
    assert page.count("table") == page.count("div", **{"class": "scroll", "tabindex": "0"})


def test_everything_of_users_is_escaped(make_store: MakeStore, tmp_path: Path) -> None:
    arms = (arm(EVIL, note=EVIL), arm("other"))
    test = Greater(EVIL, "other", 0.3)
    claims = (claim(id=EVIL, statement=EVIL, source=EVIL, why=EVIL, test=test),)
    store, _ = make_store(arms=arms, claims=claims, title=EVIL, command=EVIL, task=EVIL.replace("/", ""))
    page = written(store, tmp_path)
    assert page.count("img") == 0
    assert page.text.count("onerror=alert(1)") >= 10
    body = (tmp_path / "report" / "index.html").read_text().split("* plotly.js v")[0]
    assert "<img" not in body
    assert "<!--" not in body


def test_no_text_in_the_data_of_a_figure_ends_its_script() -> None:
    data = json_for_script({"name": EVIL, "missing": float("nan")})
    assert "<" not in data
    assert json.loads(data) == {"name": EVIL, "missing": None}


def test_environments_that_differ_are_all_listed(make_store: MakeStore, tmp_path: Path) -> None:
    import msgspec

    store, plan = make_store(seeds=2)
    folder = store.run(plan.spec(plan.design.arms[0], 1))
    result = folder.result()
    assert result is not None
    folder.finish(msgspec.structs.replace(result, environment={"processor": "Another <one>", "device": "cuda:0"}))
    page = written(store, tmp_path)
    assert "2 environments" in page.text
    assert "runs 5 1 compute time 7.5 s 1.5 s" in page.text
    assert "processor A processor Another <one>" in page.text
    assert "device - cuda:0" in page.text


ALL = ("small_batch", "large_batch", "large_batch+ra")
SMALL, LARGE = ("small_batch", 0), ("large_batch", 0)


@pytest.mark.parametrize(
    ("options", "plots", "says"),
    [
        ({"finished": []}, 0, ["9 of 9 runs have no result", "no run has finished", "Nothing to draw"]),
        ({"finished": [SMALL, LARGE]}, 5, ["7 of 9 runs", "small_batch: seeds 1, 2", "one seed has no interval"]),
        ({"finished": [SMALL]}, 4, ["share no seed", "the arms of no claim have finished a seed"]),
        ({"seeds": 1}, 5, ["a single paired seed", "no interval"]),
        ({"claims": ()}, 4, ["This study makes no claims", "No claims are tested"]),
        ({"claims": (), "arms": (arm("alone"),)}, 4, ["alone", "3 done"]),
        (
            {"diverged": [(name, seed) for name in ALL for seed in range(3)]},
            4,
            ["3 of 3 diverged", "every finished run diverged", "0 done, 9 diverged"],
        ),
        ({"diverged": [("large_batch", 1)]}, 5, ["1 of 3 diverged"]),
        ({"command": ""}, 5, ["The store does not say"]),
    ],
)
def test_what_is_missing_is_said(
    make_store: MakeStore, tmp_path: Path, options: dict[str, Any], plots: int, says: list[str]
) -> None:
    store, _ = make_store(**{"claims": (claim(),), **options})
    page = written(store, tmp_path)
    assert len(page.data) == plots
    for words in says:
        assert words in page.text, words
    assert "nan" not in page.text.split()
    assert "inf" not in page.text.lower().split()


def test_a_store_without_studies_says_how_to_start_one(tmp_path: Path) -> None:
    page = written(Store(tmp_path / "a store", create=True), tmp_path)
    assert "holds no study yet" in page.text
    assert f"--store '{tmp_path / 'a store'}'" in page.text


def test_the_same_store_gives_the_same_bytes_and_the_short_command(make_store: MakeStore, tmp_path: Path) -> None:
    store, _ = make_store()
    first = write_report(store, store.root / "report").read_bytes()
    assert write_report(store, store.root / "report").read_bytes() == first
    assert f"<pre>rebatch report {store.root}</pre>".encode() in first


@pytest.mark.parametrize(("study", "folded"), [("page-sweep", True), ("hoffer-gap", False)])
def test_a_grid_of_arms_is_folded_away(study: str, folded: bool, tmp_path: Path) -> None:
    store, _ = made_up_store(study, tmp_path, seeds=2)
    words = Page(write_report(store, tmp_path / "page")).words
    assert any(re.fullmatch(r"\d+ arms", word) for word in words) is folded


def test_a_file_in_place_of_the_folder_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RequestError, match="is a file, not a folder"):
        write_report(make_store()[0], tmp_path / "taken")


def test_the_page_is_written_without_torch() -> None:
    code = "import sys, rebatch.report.page; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
LOOK = """<iframe src="report/index.html" style="width: 390px; height: 900px"></iframe><p id="seen"></p><script>
onload = () => {
  const inside = document.querySelector("iframe").contentDocument;
  const plots = [...inside.querySelectorAll(".plot")];
  const box = inside.querySelector("input.log");
  box.click();
  document.getElementById("seen").textContent = JSON.stringify({
    beyond: inside.documentElement.scrollWidth - inside.documentElement.clientWidth,
    drawn: plots.filter((plot) => plot.querySelector("svg.main-svg")).length,
    narrowest: Math.min(...plots.map((plot) => plot._fullLayout._size.w)),
    axis: box.closest("figure").querySelector(".plot").layout.yaxis.type,
  });
};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_draws_every_figure_on_a_phone_without_errors(make_store: MakeStore, tmp_path: Path) -> None:
    arms = (arm("small_batch+same_examples" + 20 * "_long"), arm("other"))
    store, _ = make_store(arms=arms, claims=(claim(test=Greater(arms[0].name, "other", 0.3)),))
    write_report(store, tmp_path / "report")
    (tmp_path / "look.html").write_text(LOOK)
    assert BROWSER is not None
    options = [*QUIET.split(), f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1000,1000"]
    options += ["--allow-file-access-from-files", "--virtual-time-budget=9000", "--enable-logging=stderr", "--v=0"]
    command = [BROWSER, *options, "--dump-dom", (tmp_path / "look.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ":CONSOLE" not in done.stderr
    seen = json.loads(re.findall(r'<p id="seen">(.*?)</p>', done.stdout)[0])
    assert seen["beyond"] == 0
    assert seen["drawn"] == 5
    assert seen["narrowest"] > 280
    assert seen["axis"] == "linear"  # logarithmic until the box is unticked
