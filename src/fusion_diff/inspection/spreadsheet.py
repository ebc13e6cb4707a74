"""Verdicts as CSV for spreadsheets: one line per micrograph. Programs are better served by the records."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from fusion_diff.inspection.record import finite, moment
from fusion_diff.printable import paragraph, printable
from fusion_diff.verdict.reasons import main_reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusion_diff.inspection.policy import Ruling

HEAD = "\N{BOM}"
"""Start of a file, without which Excel does not read it as UTF-8."""
COLUMNS = (
    "path",
    "decision",
    "score",
    "calibrated",
    "in_scope",
    "predicted_class",
    "p_authentic",
    "p_not_authentic",
    "alpha",
    "regions",
    "pixel_size_um",
    "model_name",
    "reason",
    "error",
    "file_sha256",
    "judged",
    "policy_action",
    "policy_reasons",
    "policy_sha256",
)
"""Columns of the table; `regions` is their number, `reason` the main one, and the others are as in the records."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Starts of cells that spreadsheets take for formulas."""
_SPLIT = re.compile(r'([;|\t\r\n][\s"]*)(?=[=+\-@＝＋－＠])')
"""What comes before a formula in a spreadsheet that, as in many countries, separates cells by another sign."""


def to_csv(rulings: Iterable[Ruling]) -> str:
    """Return rulings as CSV with a byte order mark and a header. Unknown values are empty."""
    cells = (_cells(ruling) for ruling in rulings)
    return HEAD + line(COLUMNS) + "".join(line([each.get(name) for name in COLUMNS]) for each in cells)


def line(cells: Iterable[object]) -> str:
    """Return cells as a line of CSV. Names are untrusted, so an apostrophe stands before what looks like a formula."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow([_harmless(cell) for cell in cells])
    return buffer.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    plain = _SPLIT.sub(r"\1'", cell)
    return f"'{plain}" if cell.lstrip().startswith(_FORMULA) or cell.startswith(_FORMULA) else plain


def _cells(ruling: Ruling) -> dict[str, object]:
    it = ruling.outcome.inspection
    cells: dict[str, object] = {"path": printable(ruling.outcome.path), "judged": moment(ruling.outcome.judged)}
    if told := ruling.told:
        reasons = paragraph(" ".join(told["reasons"]))
        cells |= {"policy_action": told["action"], "policy_reasons": reasons, "policy_sha256": told["sha256"]}
    if it is None:
        return cells | {"error": paragraph(ruling.outcome.error or "")}
    return cells | {
        "decision": it.decision,
        "score": finite(it.score),
        "calibrated": it.calibrated,
        "in_scope": it.in_scope,
        "predicted_class": printable(it.predicted_class),
        "p_authentic": it.p_values.get("authentic"),
        "p_not_authentic": it.p_values.get("not authentic"),
        "alpha": it.alpha,
        "regions": len(it.regions),
        "pixel_size_um": it.pixel_size_um,
        "model_name": printable(it.model_name),
        "reason": paragraph(main_reason(it.reasons)),
        "file_sha256": it.file_sha256,
    }
