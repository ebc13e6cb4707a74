"""Which model it was: what the ledger, golden sets and runs that are taken up again know it by."""

from __future__ import annotations


def identity(model: object) -> dict[str, str | None]:
    """Return the `name`, `sha256` and `references_sha256` of a model, as far as it has them."""
    enrolment = getattr(model, "enrolment", None)
    return {
        "name": getattr(model, "name", None),
        "sha256": getattr(model, "sha256", None),
        "references_sha256": getattr(enrolment, "references_sha256", None),
    }
