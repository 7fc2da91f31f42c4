"""The claims of all studies with what the kept results say, for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rebatch.report.terminal import VERDICT_STYLE
from rebatch.report.transfer_table import borderless
from rebatch.study.evidence import ClaimEvidence, StudyEvidence


def evidence_table(studies: Sequence[StudyEvidence], tasks: Sequence[str]) -> RenderableType:
    """A row per claim under a row per study: what is claimed, the verdict, and where it comes from."""
    table = borderless("claim", "statement", "verdict", "on", "results", whole=["claim"])
    for study in studies:
        table.add_row(Text(study.name, style="bold"), Text(f"{study.title} ({study.source})", style="bold"))
        for claim in study.claims:
            table.add_row(Text(f"  {claim.id}"), Text(claim.statement), *_verdict(claim))
    return Group(table, Text(f"\ntasks: {', '.join(tasks)}"))


def _verdict(claim: ClaimEvidence) -> tuple[Text, Text, Text]:
    if claim.verdict is None:
        return Text("-"), Text(""), Text("")
    where = f"{claim.task}, {claim.scale}"
    return Text(claim.verdict, style=VERDICT_STYLE[claim.verdict]), Text(where), Text(claim.results or "")


def evidence_markdown(studies: Sequence[StudyEvidence], results: str = "../results") -> str:
    """The same as a table for a page of the docs, with effects and links; `results` is the folder seen from there."""
    lines = ["| claim | statement | verdict | effect | published | from |", "|---|---|---|---|---|---|"]
    for study in studies:
        for claim in study.claims:
            lines.append(f"| {claim.id} | {claim.statement} | {' | '.join(_cells(study, claim, results))} |")
    return "\n".join(lines) + "\n"


def _cells(study: StudyEvidence, claim: ClaimEvidence, results: str) -> tuple[str, str, str, str]:
    published = "" if claim.expected is None else f"{claim.expected:g}"
    if claim.verdict is None:
        return "no result yet", "", published, f"needs `{claim.needs}`"
    best = next(each for each in claim.all if each.results == claim.results)
    effect = best.effect
    assert effect.estimate is not None
    numbers = f"{effect.estimate:.3g}"
    if effect.low is not None and effect.high is not None:
        numbers += f" [{effect.low:.3g}, {effect.high:.3g}]"
    numbers += "" if best.unit in ("", "points") else f" {best.unit}"
    link = f"{results}/{(claim.results or '').removeprefix('results/')}"
    return claim.verdict, numbers, published, f"[{study.name}, {claim.task}, {claim.scale}]({link})"
