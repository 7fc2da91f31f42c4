"""What the kept results say about every claim of the built-in studies: the strongest verdict, and all of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

import rebatch
from rebatch.errors import RequestError
from rebatch.files import decoded
from rebatch.study.claims import Claim, seeds_to_decide
from rebatch.study.plan import SCALES, Study
from rebatch.study.studies import STUDIES
from rebatch.tasks import TASKS, find_task

# From the strongest to the weakest at one scale: the paper's own tasks, the largest models first, then all others.
TASK_RANK = (
    "cifar10/resnet44",
    "cifar100/wrn16-4",
    "cifar10/vgg",
    "imagenet/alexnet",
    "cifar10/c1",
    "cifar100/c3",
    "mnist/f1",
)
LAST = "digits/mlp"


class Effect(msgspec.Struct, frozen=True):
    """An effect as a result file has it: an end that is not finite, or no effect at all, is null."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict on a claim, and the file it stands in; `needs` says what it would take where it is undecided."""

    task: str
    scale: str
    verdict: Literal["confirmed", "refuted", "undecided"]
    effect: Effect
    unit: str
    expected: float | None
    results: str
    needs: str | None


class ClaimEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """A claim with its strongest verdict; where there is none, or it is undecided, `needs` says what it would take."""

    id: str
    statement: str
    expected: float | None
    verdict: Literal["confirmed", "refuted", "undecided"] | None
    scale: str | None
    task: str | None
    results: str | None
    needs: str | None
    all: tuple[Found, ...]


class StudyEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """A built-in study with its claims."""

    name: str
    source: str
    title: str
    claims: tuple[ClaimEvidence, ...]


class _KeptPart(msgspec.Struct):
    seeds: tuple[int, ...] = ()


class _KeptClaim(msgspec.Struct):
    """`seeds_to_decide` is not there in results that were written before it was."""

    id: str
    verdict: Literal["confirmed", "refuted", "undecided"]
    effect: Effect = Effect()
    unit: str = "points"
    expected: float | None = None
    parts: tuple[_KeptPart, ...] = ()
    smallest_detectable: float | None = None
    seeds_to_decide: int | msgspec.UnsetType | None = msgspec.UNSET
    premise: tuple[_KeptPart, ...] = ()
    caveats: tuple[str, ...] = ()


class _Kept(msgspec.Struct):
    """What is read of a result file, of any version; other files in results/ have no claims."""

    study: str = ""
    task: str = ""
    scale: str = ""
    claims: tuple[_KeptClaim, ...] = ()


def evidence(folder: Path | None = None) -> list[StudyEvidence]:
    """All built-in studies with what the results in `folder` say; by default the results that rebatch comes with.

    Raises:
        RequestError: `folder` is no folder, or a result in it is damaged.
    """
    if folder is not None and not folder.is_dir():
        raise RequestError(f"--results {folder} is not a folder; `rebatch study export DIR --output {folder}` makes it")
    place = folder or results_folder()
    kept = _read_all(place, shown_as=str(folder) if folder else "results")
    return [_study(study, [each for each in kept if each[0].study == study.name]) for study in STUDIES.values()]


def results_folder() -> Path:
    """The results that rebatch comes with: the repository's, or the copy in the installed package."""
    package = Path(rebatch.__file__).parent
    root = package.parents[1]
    return (
        root / "results" if package.parent.name == "src" and (root / "pyproject.toml").exists() else package / "results"
    )


def _read_all(folder: Path, shown_as: str) -> list[tuple[_Kept, str]]:
    """Every result file that speaks of a study, with how it is named."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            kept = decoded(path.read_bytes(), _Kept)
        except msgspec.DecodeError as error:
            if not _is_result(path):
                continue
            raise RequestError(f"cannot read {path}: {error}; write it again with `rebatch study export`") from None
        if kept.claims:
            found.append((kept, f"{shown_as}/{path.relative_to(folder).as_posix()}"))
    return found


def _is_result(path: Path) -> bool:
    """Whether a file that cannot be read is one of ours: tables of other things may lie there too."""
    return path.parent.name in STUDIES


def _study(study: Study, kept: Sequence[tuple[_Kept, str]]) -> StudyEvidence:
    claims: dict[str, tuple[Claim, str]] = {}
    for task in (study.task, *study.other_tasks):
        claims = {claim.id: (claim, task) for claim in study.design(find_task(task), "cpu").claims} | claims
    order = sorted(claims.values(), key=lambda found: found[1] != study.task)
    found = tuple(_claim(study, claim, task, kept) for claim, task in order)
    return StudyEvidence(name=study.name, source=study.source, title=study.title, claims=found)


def _claim(study: Study, claim: Claim, task: str, kept: Sequence[tuple[_Kept, str]]) -> ClaimEvidence:
    found = sorted(_verdicts(claim.id, kept), key=_strength)
    best = next((each for each in found if each.effect.estimate is not None), None)
    return ClaimEvidence(
        id=claim.id,
        statement=_statement(study, claim, best) if best else claim.statement,
        expected=best.expected if best else claim.expected,
        verdict=best.verdict if best else None,
        scale=best.scale if best else None,
        task=best.task if best else None,
        results=best.results if best else None,
        needs=best.needs if best else _needs(study, task, [each for each, _ in kept]),
        all=tuple(found),
    )


def _statement(study: Study, claim: Claim, found: Found) -> str:
    """As it is on the task of the result, whose batch sizes it may name."""
    task = TASKS.get(found.task)
    if task is None:
        return claim.statement
    return next((each.statement for each in study.design(task, "cpu").claims if each.id == claim.id), claim.statement)


def _verdicts(claim_id: str, kept: Sequence[tuple[_Kept, str]]) -> Iterable[Found]:
    for each, path in kept:
        for claim in each.claims:
            if claim.id == claim_id:
                yield Found(
                    task=each.task,
                    scale=each.scale,
                    verdict=claim.verdict,
                    effect=claim.effect,
                    unit=claim.unit,
                    expected=claim.expected,
                    results=path,
                    needs=_to_decide(claim) if claim.verdict == "undecided" else None,
                )


def _to_decide(claim: _KeptClaim) -> str:
    """What it would take: a premise that holds, or more seeds, and how many."""
    if claim.caveats and claim.premise:
        return "; ".join(claim.caveats)
    if claim.smallest_detectable is None:
        return "more seeds, or a task on which they differ"
    seeds = len(claim.parts[0].seeds) if claim.parts else 0
    seen = f"more seeds: {seeds} see an effect {claim.smallest_detectable:.2g} {claim.unit}".rstrip()
    seen += " beyond the margin (with probability 0.8)"
    return seen if claim.seeds_to_decide is msgspec.UNSET else f"{seen}; {seeds_to_decide(claim.seeds_to_decide)}"


def _strength(found: Found) -> tuple[int, int, str]:
    """Smaller is stronger: the scale first, then the task."""
    scale = SCALES[::-1].index(found.scale) if found.scale in SCALES else len(SCALES)
    ranks = {name: rank for rank, name in enumerate(TASK_RANK)} | {LAST: len(TASK_RANK) + 1}
    return scale, ranks.get(found.task, len(TASK_RANK)), found.task


def _needs(study: Study, task: str, kept: Sequence[_Kept]) -> str:
    """The command that would give a verdict, and which results leave it open."""
    if task != study.task:
        return f"rebatch study run {study.name} --task {task} --scale paper"
    command = f"rebatch study run {study.name} --scale cpu"
    seen = ", ".join(dict.fromkeys(f"{each.task} at scale {each.scale}" for each in kept))
    return f"{command} (results that leave it open: {seen})" if seen else command
