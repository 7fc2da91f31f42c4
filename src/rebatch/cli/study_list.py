"""`rebatch study list`: the built-in studies, their claims, and what the kept results say about them."""

from pathlib import Path
from typing import Annotated

import typer

from rebatch.cli.options import Json

Results = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of kept results (rebatch study export); those of rebatch by default."),
]
Source = Annotated[str | None, typer.Option("--source", help="Only studies of this source, such as hoffer or page.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The claims as a Markdown table, for a page.")]


def list_studies(
    json: Json = False, results: Results = None, source: Source = None, markdown: Markdown = False
) -> None:
    """The built-in studies and their claims with the verdicts of kept results, and the tasks."""
    import msgspec

    from rebatch.cli.output import say, write_json, write_text
    from rebatch.errors import RequestError
    from rebatch.study.evidence import evidence
    from rebatch.tasks import TASKS

    every = evidence(results)
    studies = [study for study in every if study.source.casefold().startswith((source or "").casefold())]
    if not studies:
        sources = ", ".join(sorted({study.source.partition(",")[0] for study in every}))
        raise RequestError(f"no study's source begins with {source!r}; they begin with {sources}")
    if json:
        write_json(msgspec.json.format(msgspec.json.encode({"studies": studies, "tasks": list(TASKS)}), indent=2))
        return
    from rebatch.report.evidence_table import evidence_markdown, evidence_table

    if markdown:
        write_text(evidence_markdown(studies))
        return
    say(evidence_table(studies, list(TASKS)))
