"""Schemas of inspections, their lists, and overrulings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from fusion_diff.fewshot.decision import Decision
from fusion_diff.service import tables
from fusion_diff.service.problems import Problem
from fusion_diff.service.schemas.fields import Body, Id, Name, Reason


class Overruled(BaseModel):
    """The decision of an expert."""

    decision: Decision
    reason: str
    by: str
    at: datetime


class InspectionSummary(BaseModel):
    """An inspection in a list."""

    id: Id
    name: str
    file_sha256: str
    score: float = Field(description="Probability of being authentic; see `calibrated`.")
    calibrated: bool = Field(
        description="False if the score only ranks, because the references of a side are of fewer than two specimens."
    )
    in_scope: bool = Field(description="False if the micrograph is unlike all references or of another magnification.")
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
    """An inspection with all values needed to understand and repeat it."""

    predicted_class: str
    p_values: dict[str, float]
    references_sha256: str
    threshold: float
    regions: list[dict[str, Any]] = Field(description="Regions in native pixels, and in µm if the pixel size is known.")
    nearest: list[dict[str, Any]]
    recognised: dict[str, Any] | None = None
    contributions: dict[str, float | None]
    offset: float | None = Field(description="Log-odds to which the contributions are added.")
    compared_with: dict[str, Any] = Field(description="Summary of the references.")
    notes: list[str] = Field(description="How the file was read, and what is uncertain about it.")
    page: int | None = Field(default=None, description="Page of the file, from 0; null for the first.")
    reasons: list[str]
    evidence: dict[str, Any]
    height: int
    width: int
    pixel_size_um: float | None
    pixel_size_source: str | None = Field(default=None, description="What gives the pixel size: `given`, or metadata.")
    instrument: str | None
    seconds: float
    ledger_sequence: int
    overrulings: list[Overruled] = Field(
        description="All overrulings, oldest first. One with the model's own decision withdrew those before it."
    )

    @classmethod
    def of(cls, row: tables.Inspection) -> InspectionOut:
        """Return a row as the API shows it."""
        own = {"ledger_sequence": row.ledger_sequence, "overrulings": row.overrulings}
        return cls(**row.result | _summary(row) | own)


class InspectionEntry(BaseModel):
    """The result of one file: an inspection or a problem."""

    name: str
    inspection: InspectionOut | None = None
    problem: Problem | None = None


class Inspections(BaseModel):
    """The results of a request's files, in their order."""

    results: list[InspectionEntry]


class InspectionPage(BaseModel):
    """A page of inspections, newest first."""

    items: list[InspectionSummary]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end.")


class OverruleIn(Body):
    """An expert's decision. The model's own decision withdraws an overruling."""

    decision: Decision
    reason: Reason


class AddToReferencesIn(Body):
    """The reference set, class and specimen for an inspected micrograph."""

    reference_set: Id
    label: Name
    group: Name | None = Field(default=None, description="Specimen; its own if omitted.")


def _summary(row: tables.Inspection) -> dict[str, Any]:
    names = ("id", "name", "score", "decision", "alpha", "model_sha256", "created", "by")
    told = {name: getattr(row, name) for name in names}
    told |= {"file_sha256": row.sha256}
    told |= {name: row.result[name] for name in ("model_name", "in_scope", "calibrated")}
    if row.overruled_decision is not None:
        told["overruled"] = {
            "decision": row.overruled_decision,
            "reason": row.overruled_reason,
            "by": row.overruled_by,
            "at": row.overruled_at,
        }
    return told
