"""The report page: one HTML file that holds all studies of a store, and needs no network to be read.

It is a function of the store alone, so writing it twice gives the same bytes; and whatever is missing, it says so.
"""

import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import rebatch
from rebatch.errors import RequestError
from rebatch.files import write_whole
from rebatch.report import drawings, sections
from rebatch.report.markup import Html, element, joined, void
from rebatch.report.series import read_arms
from rebatch.report.summary import StudySummary, summarize
from rebatch.study.plan import Plan
from rebatch.study.store import Store

# Whatever a name of a user or a library tries, the browser loads nothing from anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(store: Store, output: Path) -> Path:
    """Write `index.html` into the folder `output`, for all plans of the store; returns its path.

    Raises:
        RequestError: `output` is a file.
    """
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file, not a folder; name another folder for the report")
    page = output / "index.html"
    write_whole(page, render(store, output).encode())
    return page


def render(store: Store, output: Path) -> Html:
    """The page as text; `output` is the folder that it names in the command that writes it again."""
    studies = [(plan, summarize(plan, store)) for plan in store.plans()]
    remake = _remake(store, output)
    body = [_study(plan, summary, store, remake) for plan, summary in studies]
    title = studies[0][0].title if len(studies) == 1 else f"rebatch: {len(studies)} studies"
    content = joined(_header(studies), element("main", *body or [_nothing(store)]), _footer())
    return joined(Html("<!DOCTYPE html>\n"), element("html", _head(title), element("body", content), lang="en"))


def _head(title: str) -> Html:
    return element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        void("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", _resource("page.css")),
    )


def _header(studies: Sequence[tuple[Plan, StudySummary]]) -> Html:
    links = [element("li", element("a", plan.title, href=f"#{plan.name}"), _where(plan)) for plan, _ in studies]
    contents = element("nav", element("ul", *links), aria_label="Studies") if len(studies) > 1 else None
    return element("header", element("h1", "rebatch report"), contents)


def _where(plan: Plan) -> str:
    return f" {plan.task}, scale {plan.scale}"


def _study(plan: Plan, summary: StudySummary, store: Store, remake: str) -> Html:
    arms = read_arms(plan, store)
    figures = drawings.draw(plan, summary, arms)
    return element(
        "section",
        element("h2", plan.title),
        sections.facts(plan, summary),
        sections.missing(plan, summary, arms),
        sections.headline(summary),
        element("h3", "Arms"),
        sections.arms_table(summary),
        sections.candidates_table(summary),
        figures["accuracy"],
        element("h3", "Claims and verdicts"),
        sections.claims_table(summary),
        figures["effects"],
        sections.quantities_table(summary),
        *_course(summary, figures),
        element("h3", "How it was made"),
        sections.commands(plan, remake),
        sections.seeds(plan, arms),
        sections.environments(arms),
        sections.recipes(plan),
        id=plan.name,
        aria_label=plan.title,
    )


def _course(summary: StudySummary, figures: Mapping[str, Html]) -> list[Html]:
    """Curves over steps; a study of probes alone trains nothing."""
    if all(arm.probe for arm in summary.arms):
        return []
    title = element("h3", "The course of training")
    return [title, *(figures[name] for name in ("error-steps", "error-examples", "distance"))]


def _nothing(store: Store) -> Html:
    start = f"rebatch study run NAME --store {shlex.quote(str(store.root))}"
    return joined(element("p", "This store holds no study yet. Start one with", class_="notice"), element("pre", start))


def _footer() -> Html:
    note = f"Written by rebatch {rebatch.__version__}. This file holds all it needs and loads nothing from a network."
    return joined(
        element("footer", element("p", note)),
        element("noscript", element("p", "The figures need JavaScript; the tables hold the numbers.", class_="notice")),
        element("script", _plotly()),
        element("script", _resource("page.js")),
    )


def _remake(store: Store, output: Path) -> str:
    """The command that writes the page again from the runs in the store."""
    elsewhere = ["--output", str(output)] if output != store.root / "report" else []
    return shlex.join(["rebatch", "report", str(store.root), *elsewhere])


def _plotly() -> Html:
    from plotly.offline import get_plotlyjs  # takes a while to import, and only the page needs it

    return Html(get_plotlyjs())


def _resource(name: str) -> Html:
    return Html(resources.files("rebatch.report").joinpath(name).read_text(encoding="utf-8"))
