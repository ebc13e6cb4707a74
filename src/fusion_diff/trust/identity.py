"""Identity of a model, as recorded in ledgers, golden sets and resumable runs."""

from __future__ import annotations


def identity(model: object) -> dict[str, str | None]:
    """Return the `name`, `sha256` and `references_sha256` of a model; None for each that it lacks."""
    enrolment = getattr(model, "enrolment", None)
    return {
        "name": getattr(model, "name", None),
        "sha256": getattr(model, "sha256", None),
        "references_sha256": getattr(enrolment, "references_sha256", None),
    }
