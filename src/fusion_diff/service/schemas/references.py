"""Schemas of reference sets and corrections."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, Field, Strict

from fusion_diff.service import tables
from fusion_diff.service.problems import Problem
from fusion_diff.service.schemas.fields import Body, Id, Name, PixelSize


class ReferenceSetIn(Body):
    """A new set of references."""

    name: Name
    authentic: Name = Field(description="Class to verify; all others count as not authentic.")


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
        return cls.model_validate(row, from_attributes=True)


class ReferenceImageIn(Body):
    """Corrections of a reference. Omitted fields and the flaw mask stay."""

    label: Name | None = Field(default=None, description="Class; null keeps the current one.")
    group: Name | None = Field(default=None, description="Specimen; null for its own.")
    pixel_size_um: Annotated[PixelSize, Strict()] | None = Field(
        default=None, description="Pixel size in µm; null for that in the file."
    )


class ReferenceSetSummary(BaseModel):
    """A set of references in a list."""

    id: Id
    name: str
    authentic: str
    counts: dict[str, int] = Field(description="References of each class.")
    created: datetime

    @classmethod
    def of(cls, row: tables.ReferenceSet) -> Self:
        """Return a row as the API shows it."""
        return cls.model_validate(row, from_attributes=True)


class ReferenceSetOut(ReferenceSetSummary):
    """A set of references with its images."""

    images: list[ReferenceImageOut]


class ReferenceSets(BaseModel):
    """All sets of references, newest first."""

    items: list[ReferenceSetSummary]


class ReferenceEntry(BaseModel):
    """The result of one file: a reference or a problem."""

    name: str
    reference: ReferenceImageOut | None = None
    problem: Problem | None = None


class References(BaseModel):
    """The results of a request's files, in their order."""

    results: list[ReferenceEntry]
