"""Identity of a model, as recorded in ledgers, golden sets and resumable runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_diff.verdict.inspector import Inspector


def identity(model: Inspector | None) -> dict[str, str | None]:
    """Return the `name`, `sha256` and `references_sha256` of a model; None for each without a model or references."""
    if model is None:
        return {"name": None, "sha256": None, "references_sha256": None}
    enrolled = model.enrolment
    return {
        "name": model.name,
        "sha256": model.sha256,
        "references_sha256": None if enrolled is None else enrolled.references_sha256,
    }
