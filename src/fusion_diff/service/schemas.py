"""What the API takes and gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fusion_diff.fewshot.decision import Decision
from fusion_diff.service import tables
from fusion_diff.service.jobs import lost
from fusion_diff.service.problems import Problem, StoppingError, problem
from fusion_diff.service.records import MAX_REASON
from fusion_diff.service.tables import NAME_LENGTH


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("control characters and line breaks have no place in it")
    return value


def _text(value: str) -> str:
    if not all(character.isprintable() or character in "\n\r\t" for character in value):
        raise ValueError("control characters have no place in it")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("it lies outside of the years 1 to 9999") from None


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH), AfterValidator(_one_line)
]
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REASON), AfterValidator(_text)
]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Alpha = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
PixelSize = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False, description="Side of a pixel in µm.")]
Moment = Annotated[datetime, AfterValidator(_utc)]


class _Body(BaseModel):
    """What is sent; nothing that is not known."""

    model_config = ConfigDict(extra="forbid")


class Overruled(BaseModel):
    """What an expert decided instead."""

    decision: Decision
    reason: str
    by: str
    at: datetime


class InspectionSummary(BaseModel):
    """An inspection in a list."""

    id: Id
    name: str
    sha256: str
    score: float = Field(description="Calibrated probability of being authentic.")
    decision: Decision
    alpha: float
    model_name: str
    model_sha256: str
    created: datetime
    by: str
    overruled: Overruled | None = None

    @classmethod
    def of(cls, row: tables.Inspection) -> InspectionSummary:
        """Return a row as the API shows it."""
        return cls(**_summary(row))


class InspectionOut(InspectionSummary):
    """An inspection with everything needed to understand and repeat it."""

    predicted_class: str
    in_scope: bool
    p_values: dict[str, float]
    references_sha256: str
    threshold: float
    regions: list[dict[str, Any]] = Field(description="In native pixels, and in µm where the pixel size is known.")
    nearest: list[dict[str, Any]]
    recognised: dict[str, Any] | None = None
    contributions: dict[str, float | None]
    offset: float | None = Field(default=None, description="The log-odds that contributions are added to.")
    calibrated: bool = Field(
        default=True, description="False where there were too few references to cross-fit, or authentic ones alone."
    )
    compared_with: dict[str, Any] | None = Field(default=None, description="The references in short.")
    notes: list[str] = Field(default=[], description="What reading did to the file, or could not tell of it.")
    page: int | None = Field(default=None, description="Of the file, from 0, where another than the first was judged.")
    reasons: list[str]
    evidence: dict[str, Any]
    height: int
    width: int
    pixel_size_um: float | None
    instrument: str | None
    seconds: float
    ledger_sequence: int
    overrulings: list[Overruled] = Field(
        description="All of them, oldest first; one that decides as the model did took back what was decided before."
    )

    @classmethod
    def of(cls, row: tables.Inspection) -> InspectionOut:
        """Return a row as the API shows it."""
        own = {"ledger_sequence": row.ledger_sequence, "overrulings": row.overrulings}
        return cls(**row.result | _summary(row) | own)


class InspectionEntry(BaseModel):
    """What became of one file: an inspection or a problem."""

    name: str
    inspection: InspectionOut | None = None
    problem: Problem | None = None


class Inspections(BaseModel):
    """What became of the files of a request, in their order."""

    results: list[InspectionEntry]


class InspectionPage(BaseModel):
    """Some inspections, newest first."""

    items: list[InspectionSummary]
    next_cursor: str | None = Field(default=None, description="Give it as `cursor` for those after; absent at the end.")


class OverruleIn(_Body):
    """An expert's decision; the model's own takes back what it was overruled to."""

    decision: Decision
    reason: Reason


class AddToReferencesIn(_Body):
    """Where an inspected micrograph is to be a reference, and of what."""

    reference_set: Id
    label: Name
    group: Name | None = Field(default=None, description="Its specimen; its own name when omitted.")


class ReferenceSetIn(_Body):
    """A new set of references."""

    name: Name
    authentic: Name = Field(description="The class that is verified.")


class ReferenceImageOut(BaseModel):
    """A reference."""

    id: Id
    name: str
    label: str
    group: str
    sha256: str
    marked: bool
    pixel_size_um: float | None
    created: datetime

    @classmethod
    def of(cls, row: tables.ReferenceImage) -> ReferenceImageOut:
        """Return a row as the API shows it."""
        return cls(
            id=row.id,
            name=row.name,
            label=row.label,
            group=row.group,
            sha256=row.sha256,
            marked=row.mark_sha256 is not None,
            pixel_size_um=row.pixel_size_um,
            created=row.created,
        )


class ReferenceImageIn(_Body):
    """What is to be corrected of a reference; what is left out stays as it is, and so does its mark."""

    label: Name | None = Field(default=None, description="Its class; null leaves it as it is.")
    group: Name | None = Field(default=None, description="Its specimen; null for one of its own.")
    pixel_size_um: PixelSize | None = Field(default=None, description="Null for what the file says.")


class ReferenceSetSummary(BaseModel):
    """A set of references in a list."""

    id: Id
    name: str
    authentic: str
    counts: dict[str, int] = Field(description="References of each class.")
    created: datetime

    @classmethod
    def of(cls, row: tables.ReferenceSet) -> ReferenceSetSummary:
        """Return a row as the API shows it."""
        return cls(**_set_summary(row))


class ReferenceSetOut(ReferenceSetSummary):
    """A set of references with its images."""

    images: list[ReferenceImageOut]

    @classmethod
    def of(cls, row: tables.ReferenceSet) -> ReferenceSetOut:
        """Return a row as the API shows it."""
        return cls(**_set_summary(row), images=[ReferenceImageOut.of(image) for image in row.images])


class ReferenceEntry(BaseModel):
    """What became of one file: a reference or a problem."""

    name: str
    reference: ReferenceImageOut | None = None
    problem: Problem | None = None


class References(BaseModel):
    """What became of the files of a request, in their order."""

    results: list[ReferenceEntry]


class FindingOut(BaseModel):
    """What is suspicious about a reference."""

    reference: str
    label: str
    kind: str
    strength: float
    sentence: str
    box: tuple[int, int, int, int] | None = Field(description="Top, left, height and width in native pixels.")
    grave: bool


class EnrolIn(_Body):
    """How to enrol."""

    name: Name = Field(description="What the model is called.")
    reconstruction: bool = Field(default=False, description="Consider the diffusion path as evidence too; slower.")
    detect_attacks: bool = Field(default=False, description="Prepare for the detection of attacks; slower.")
    default: bool = Field(default=False, description="Have it judge from now on; takes the scope `admin`.")


class ModelOut(BaseModel):
    """A model."""

    id: Id
    name: str
    sha256: str
    references_sha256: str | None
    authentic: str | None
    counts: dict[str, int] = Field(description="Enrolled references of each class.")
    figures: dict[str, float] = Field(description="Cross-fitted figures, and the weight of each reading.")
    warnings: list[str]
    reference_set: Id | None
    is_default: bool = Field(description="Whether it judges, unless another is named.")
    retired: bool = Field(description="Whether it is no longer offered, and refused where it is named.")
    created: datetime

    @classmethod
    def of(cls, row: tables.Model, *, is_default: bool) -> ModelOut:
        """Return a row as the API shows it; whether an enrolled model is the default, its row knows."""
        names = ("id", "name", "sha256", "references_sha256", "authentic", "counts", "figures", "warnings", "retired")
        return cls(
            **{name: getattr(row, name) for name in names},
            reference_set=row.reference_set_id,
            is_default=is_default,
            created=row.created,
        )


class JobOut(BaseModel):
    """An audit or an enrolment, and how far it is."""

    id: Id
    kind: Literal["audit", "enrolment"]
    state: Literal["running", "done", "failed"]
    done: int = Field(description="Looks at references so far; what is learned from all of them comes after.")
    total: int = Field(description="Looks in all: one at each reference, and one more with each option.")
    reference_set: Id | None
    findings: list[FindingOut] | None = Field(default=None, description="Of an audit that is done, gravest first.")
    model: ModelOut | None = Field(default=None, description="Of an enrolment that is done.")
    problem: Problem | None = Field(default=None, description="Why it failed.")
    created: datetime

    @classmethod
    def of(cls, row: tables.Job) -> JobOut:
        """Return a row as the API shows it."""
        result = row.result or {}
        state = cast("Literal['running', 'done', 'failed']", row.state)
        if lost(row):
            state, result = "failed", problem(StoppingError(_LOST)).model_dump()
        names = ("id", "kind", "done", "total", "created")
        return cls(
            **{name: getattr(row, name) for name in names},
            state=state,
            reference_set=row.reference_set_id,
            findings=result.get("findings"),
            model=None if row.model is None else ModelOut.of(row.model, is_default=row.model.is_default),
            problem=Problem(**result) if state == "failed" else None,
        )


_LOST = "the service ended while it worked on this; start it again"


class Models(BaseModel):
    """All models, newest first."""

    items: list[ModelOut]


class ReferenceSets(BaseModel):
    """All sets of references, newest first."""

    items: list[ReferenceSetSummary]


def _summary(row: tables.Inspection) -> dict[str, Any]:
    names = ("id", "name", "sha256", "score", "decision", "alpha", "model_sha256", "created", "by")
    told = {name: getattr(row, name) for name in names} | {"model_name": row.result["model_name"]}
    if row.overruled_decision is not None:
        told["overruled"] = {
            "decision": row.overruled_decision,
            "reason": row.overruled_reason,
            "by": row.overruled_by,
            "at": row.overruled_at,
        }
    return told


def _set_summary(row: tables.ReferenceSet) -> dict[str, Any]:
    labels = [image.label for image in row.images]
    counts = {
        label: labels.count(label) for label in sorted(set(labels), key=lambda each: (each != row.authentic, each))
    }
    return {"id": row.id, "name": row.name, "authentic": row.authentic, "counts": counts, "created": row.created}
