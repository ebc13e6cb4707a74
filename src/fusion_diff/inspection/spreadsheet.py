"""Verdicts as CSV for spreadsheets: one line per micrograph. Programs are better served by the records."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from fusion_diff.inspection.files import write_text
from fusion_diff.inspection.record import finite
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fusion_diff.inspection.run import Outcome

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
)
"""Columns of the table; `regions` is their number, `reason` the first, and the others are as in the records."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Starts of cells that spreadsheets take for formulas."""
_MARK = "\ufeff"
"""Byte order mark, without which Excel does not read a file as UTF-8."""


def to_csv(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes as CSV with a header. Unknown values are empty.

    Text that a spreadsheet would take for a formula is preceded by an apostrophe, as names of files and classes are
    untrusted.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for outcome in outcomes:
        cells = _cells(outcome)
        table.writerow({name: _harmless(cell) if isinstance(cell, str) else cell for name, cell in cells.items()})
    return text.getvalue()


def write_csv(outcomes: Iterable[Outcome], file: Path) -> Path:
    """Write outcomes as CSV and return the path; see `write_text`."""
    return write_text(file, _MARK + to_csv(outcomes))


def _cells(outcome: Outcome) -> dict[str, object]:
    it = outcome.inspection
    if it is None:
        return {"path": printable(outcome.path), "error": paragraph(outcome.error or "")}
    return {
        "path": printable(outcome.path),
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
        "reason": paragraph(next(iter(it.reasons), "")),
        "file_sha256": it.file_sha256,
    }


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
