"""Schemas of models and of jobs: audits and enrolments."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast

from pydantic import BaseModel, Field

from fusion_diff.fewshot.fusion import Difference
from fusion_diff.service import tables
from fusion_diff.service.jobs import lost
from fusion_diff.service.problems import Problem, UnavailableError, problem
from fusion_diff.service.schemas.fields import Body, Id, Name

_LOST = "the service stopped before this was done; start it again"


class EnrolIn(Body):
    """Options of an enrolment."""

    name: Name = Field(description="Name of the model.")
    difference: Difference = Field(
        default="any",
        description="What sets the classes apart: `whole` if the whole material differs, as by grain size, porosity, "
        "firing or glaze; `any` looks for flaws that have a place as well.",
    )
    reconstruction: bool = Field(default=False, description="Also use the diffusion path as evidence; slower.")
    detect_attacks: bool = Field(
        default=False,
        description="Prepare the model to detect adversarial attacks; slower. "
        "Only `fusion-diff inspect` and Python detect them.",
    )
    default: bool = Field(default=False, description="Make it the default model; needs the scope `admin`.")


class ModelOut(BaseModel):
    """A model."""

    id: Id
    name: str
    sha256: str
    references_sha256: str | None
    authentic: str | None
    counts: dict[str, int] = Field(description="Enrolled references of each class.")
    figures: dict[str, float] = Field(description="Cross-fitted figures, and the weight of each kind of evidence.")
    warnings: list[str] = Field(description="Doubts about the figures, and what is odd about the references' files.")
    reference_set: Id | None
    is_default: bool = Field(description="Whether it judges requests that name no model.")
    retired: bool = Field(description="Whether it is retired: no longer offered, and refused in requests.")
    created: datetime

    @classmethod
    def of(cls, row: tables.Model, *, is_default: bool) -> ModelOut:
        """Return a row as the API shows it."""
        names = ("id", "name", "sha256", "references_sha256", "authentic", "counts", "figures", "warnings", "retired")
        return cls(
            **{name: getattr(row, name) for name in names},
            reference_set=row.reference_set_id,
            is_default=is_default,
            created=row.created,
        )


class Models(BaseModel):
    """All models, newest first."""

    items: list[ModelOut]


class FindingOut(BaseModel):
    """A finding of an audit about a reference."""

    reference: str
    label: str
    kind: str
    strength: float
    sentence: str
    box: tuple[int, int, int, int] | None = Field(description="Top, left, height and width in native pixels.")
    grave: bool


class JobOut(BaseModel):
    """An audit or an enrolment, with its progress and result."""

    id: Id
    kind: Literal["audit", "enrolment"]
    state: Literal["running", "done", "failed"]
    done: int = Field(description="Steps done so far; learning from all references comes after the last.")
    total: int = Field(
        description="Number of steps: one for each reference, and one more for each reference with each option."
    )
    reference_set: Id | None
    findings: list[FindingOut] | None = Field(default=None, description="Findings of a finished audit, gravest first.")
    model: ModelOut | None = Field(default=None, description="Model of a finished enrolment.")
    note: str | None = Field(
        default=None,
        description="What was asked for and not done, and why; of an audit, what is odd about the references' files.",
    )
    problem: Problem | None = Field(default=None, description="Why it failed.")
    created: datetime

    @classmethod
    def of(cls, row: tables.Job) -> JobOut:
        """Return a row as the API shows it."""
        result = row.result or {}
        state = cast("Literal['running', 'done', 'failed']", row.state)
        if lost(row):
            state, result = "failed", problem(UnavailableError(_LOST)).model_dump()
        names = ("id", "kind", "done", "total", "created")
        return cls(
            **{name: getattr(row, name) for name in names},
            state=state,
            reference_set=row.reference_set_id,
            findings=result.get("findings"),
            model=None if row.model is None else ModelOut.of(row.model, is_default=row.model.is_default),
            note=result.get("note"),
            problem=Problem(**result) if state == "failed" else None,
        )


class Jobs(BaseModel):
    """The jobs that began last, newest first."""

    items: list[JobOut]
