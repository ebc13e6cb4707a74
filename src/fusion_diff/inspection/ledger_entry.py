"""Ledger entries of verdicts (file, model, references, settings and result) and of overrulings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_diff.inspection.record import MAX_ERROR_CHARACTERS, digest_of_failed, to_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.inspection.run import Outcome


def verdict(
    outcome: Outcome,
    *,
    alpha: float,
    pixel_size_um: float | None,
    page: int | None = None,
    max_pixels: int | None = None,
    model: Mapping[str, str | None] | None = None,
    ruling: Ruling | None = None,
) -> dict[str, Any]:
    """Return the ledger entry of an outcome.

    Args:
        outcome: an inspection, or an error.
        alpha: error rate of the decisions.
        pixel_size_um: pixel size given for every file; None where each file's own was used.
        page: page given for every file, from 0; None where it was chosen by file, which adds no entry.
        max_pixels: limit on the size given for every file; None where it was the default, which adds no entry.
        model: `name`, `sha256` and `references_sha256` of the model, used for outcomes that are errors.
        ruling: the ruling on it; told under `policy` where the policy is from a file.
    """
    told = to_record(outcome, ruling)
    settings: dict[str, Any] = {"alpha": alpha, "pixel_size_um": pixel_size_um}
    settings |= {key: value for key, value in (("page", page), ("max_pixels", max_pixels)) if value is not None}
    record: dict[str, Any] = {"file": told["path"], "settings": settings}
    record |= {key: told[key] for key in ("policy",) if key in told}
    if outcome.inspection is not None:
        names = {"name": "model_name", "sha256": "model_sha256", "references_sha256": "references_sha256"}
        kept = ("file_sha256", "pixel_size_um", "score", "decision", "p_values", "in_scope")
        record["model"] = {key: told[name] for key, name in names.items()}
        asked = tuple(key for key in ("page", "purified", "attacked") if key in told)
        return record | {key: told[key] for key in kept + asked}
    error = str(told["error"])[:MAX_ERROR_CHARACTERS]
    return record | {"file_sha256": digest_of_failed(outcome.path), "model": dict(model or {}), "error": error}


def overruling(
    inspection: str, *, file: str, file_sha256: str, was: str, decision: str, reason: str, by: str, withdrawn: bool
) -> dict[str, Any]:
    """Return the ledger entry of an expert's overruling. The entry of the verdict itself is not changed.

    Args:
        inspection: id of the inspection.
        file: name of the micrograph.
        file_sha256: sha256 of its bytes.
        was: decision before.
        decision: the expert's decision.
        reason: the expert's reason.
        by: name of the key that was used.
        withdrawn: whether this restores the model's own decision.
    """
    told = {"inspection": inspection, "was": was, "decision": decision, "reason": reason, "by": by}
    kind = "withdrawn" if withdrawn else "overruled"
    return {"decision": kind, "overruled": told, "file": file, "file_sha256": file_sha256}
