"""The claims of all studies with what the kept results say, for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rebatch.report.terminal import VERDICT_STYLE
from rebatch.report.transfer_table import borderless
from rebatch.study.evidence import ClaimEvidence, StudyEvidence


def evidence_table(studies: Sequence[StudyEvidence], tasks: Sequence[str]) -> RenderableType:
    """A row per claim under a row per study: what is claimed, the verdict, and where it comes from."""
    table = borderless("claim", "statement", "verdict", "on", "results")
    table.columns[0].no_wrap = True
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
