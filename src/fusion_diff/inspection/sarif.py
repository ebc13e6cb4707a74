"""SARIF 2.1.0 (OASIS, errata 01) for code-scanning services and editors.

Every micrograph that a policy does not pass is a result, and so is every region. SARIF counts lines and columns from 1;
here a line is a row of pixels, and a column a column of pixels. Each box is also given as a `rectangle`, SARIF's form
for images, and in µm among the properties where the pixel size is known.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fusion_diff import __version__
from fusion_diff.inspection.files import write_text
from fusion_diff.inspection.policy import policy_of
from fusion_diff.inspection.record import finite, moment
from fusion_diff.inspection.run import time_span
from fusion_diff.inspection.wording import number
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.verdict.result import Inspection, Region

VERSION = "2.1.0"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "not-authentic": "A micrograph is judged not authentic.",
    "inconclusive": "The evidence on a micrograph does not suffice for a decision.",
    "out-of-scope": "A micrograph as a whole is unlike every reference, authentic or not, or of another magnification.",
    "against-policy": "A micrograph is judged authentic, but does not meet the policy.",
    "could-not-inspect": "A micrograph could not be inspected.",
    "region": "A region of a micrograph departs from the authentic references.",
}
_LEVELS = {"error": "error", "fail": "error", "warn": "warning", "pass": "note"}


def to_sarif(rulings: Sequence[Ruling], code: int, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return rulings as a SARIF log, in order: the result of each micrograph, then its regions.

    Args:
        rulings: rulings on micrographs.
        code: exit code of the run.
        notes: remarks on the whole, such as which files were skipped.
    """
    results: list[dict[str, Any]] = []
    for index, ruling in enumerate(rulings):
        where = {"uri": _uri(ruling.outcome.path), "index": index}
        it = ruling.outcome.inspection
        if ruling.action != "pass":
            results.append(_of_the_micrograph(ruling, where))
        if it is not None:
            results += [
                _of_a_region(it, number_, region, where, _LEVELS[ruling.action])
                for number_, region in enumerate(it.regions, start=1)
            ]
    driver = {
        "name": "FusionDiff",
        "version": __version__,
        "rules": [{"id": key, "shortDescription": {"text": text}} for key, text in _RULES.items()],
    }
    invocation: dict[str, Any] = {"executionSuccessful": code != 3, "exitCode": code}
    if (span := time_span(ruling.outcome for ruling in rulings)) is not None:
        invocation |= {"startTimeUtc": moment(span[0]), "endTimeUtc": moment(span[1])}
    if notes:
        invocation["toolExecutionNotifications"] = [
            {"level": "warning", "message": {"text": _plain_message(paragraph(note))}} for note in notes
        ]
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "artifacts": [_artifact(ruling) for ruling in rulings],
        "results": results,
    }
    if (policy := policy_of(rulings)) is not None:
        run["properties"] = {"policy_sha256": policy.sha256}
    return {"$schema": SCHEMA, "version": VERSION, "runs": [run]}


def write_sarif(rulings: Sequence[Ruling], code: int, path: str | os.PathLike[str], notes: Sequence[str] = ()) -> Path:
    """Write the SARIF log and return its path; see `to_sarif`.

    Raises:
        OSError: the file cannot be written.
    """
    return write_text(Path(path), json.dumps(to_sarif(rulings, code, notes), indent=1, allow_nan=False) + "\n")


def _of_the_micrograph(ruling: Ruling, where: dict[str, Any]) -> dict[str, Any]:
    it = ruling.outcome.inspection
    location: dict[str, Any] = {"artifactLocation": where}
    if it is None:
        rule, sha256 = "could-not-inspect", None
    else:
        rule, sha256 = _rule(it), it.file_sha256
        location["region"] = _pixels(0, 0, it.height, it.width)
    text = " ".join(paragraph(reason) for reason in ruling.reasons)
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": _LEVELS[ruling.action],
        "message": {"text": _plain_message(text)},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"fusionDiff/v1": _fingerprint(sha256 or where["uri"], rule)},
        "properties": _told(ruling),
    }


def _of_a_region(it: Inspection, count: int, region: Region, where: dict[str, Any], level: str) -> dict[str, Any]:
    size = it.pixel_size_um
    box = (region.top, region.left, region.height, region.width)
    area = f"{number(region.area_px)} px²" if region.area_um2 is None else f"{number(region.area_um2)} µm²"
    text = f"Region {count} of {area} departs from the authentic references, by up to {number(region.peak_evidence)}."
    properties: dict[str, Any] = {
        "area_px": region.area_px,
        "peak_evidence": finite(region.peak_evidence),
        "mean_evidence": finite(region.mean_evidence),
    }
    if size is not None:
        top, left, height, width = (round(length * size, 6) for length in box)
        properties |= {
            "pixel_size_um": size,
            "top_um": top,
            "left_um": left,
            "height_um": height,
            "width_um": width,
            "length_um": region.length_um,
            "area_um2": region.area_um2,
            "centroid_x_um": region.centroid_x_um,
            "centroid_y_um": region.centroid_y_um,
        }
    rectangle = {
        "top": region.top,
        "left": region.left,
        "bottom": region.top + region.height,
        "right": region.left + region.width,
    }
    return {
        "ruleId": "region",
        "ruleIndex": list(_RULES).index("region"),
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": {"artifactLocation": where, "region": _pixels(*box)}}],
        "attachments": [{"artifactLocation": where, "rectangles": [rectangle]}],
        "partialFingerprints": {"fusionDiff/v1": _fingerprint(it.file_sha256 or where["uri"], "region", *box)},
        "properties": properties,
    }


def _rule(it: Inspection) -> str:
    if it.decision == "authentic":
        return "against-policy"
    if it.decision == "not authentic":
        return "not-authentic"
    return "inconclusive" if it.in_scope else "out-of-scope"


def _artifact(ruling: Ruling) -> dict[str, Any]:
    it = ruling.outcome.inspection
    artifact: dict[str, Any] = {
        "location": {"uri": _uri(ruling.outcome.path)},
        "roles": ["analysisTarget"],
        "properties": _told(ruling),
    }
    if it is not None and it.file_sha256 is not None:
        artifact["hashes"] = {"sha-256": it.file_sha256}
    return artifact


def _told(ruling: Ruling) -> dict[str, Any]:
    it = ruling.outcome.inspection
    told: dict[str, Any] = {"action": ruling.action, "judged": moment(ruling.outcome.judged)}
    if it is None:
        return told
    return told | {
        "decision": it.decision,
        "score": finite(it.score),
        "predicted_class": printable(it.predicted_class),
        "alpha": it.alpha,
        "model_sha256": it.model_sha256,
        "references_sha256": it.references_sha256,
    }


def _pixels(top: int, left: int, height: int, width: int) -> dict[str, int]:
    """Return a box in SARIF's counting: from 1, the last line included and the last column excluded."""
    return {
        "startLine": top + 1,
        "startColumn": left + 1,
        "endLine": top + max(1, height),
        "endColumn": left + max(1, width) + 1,
    }


def _uri(path: Path) -> str:
    """Return a path as a URI reference. Relative paths stay relative, as code-scanning services require."""
    if path.is_absolute():
        return path.as_uri()
    return quote(os.fsencode(path.as_posix()), safe="/")


def _plain_message(text: str) -> str:
    """Return a message with braces and brackets escaped, which mean placeholders and links in SARIF."""
    for sign, doubled in (("{", "{{"), ("}", "}}"), ("[", r"\["), ("]", r"\]")):
        text = text.replace(sign, doubled)
    return text


def _fingerprint(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "backslashreplace")).hexdigest()
