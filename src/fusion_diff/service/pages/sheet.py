"""Inspections as streamed CSV for spreadsheets. Cells that look like formulas are escaped."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from fusion_diff.service import records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_diff.service.database import Database
    from fusion_diff.service.tables import Inspection

_AT_ONCE = 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_SPLIT = re.compile(r'([;|\t\r\n][\s"]*)(?=[=+\-@＝＋－＠])')
"""What comes before a formula in a spreadsheet that, as in many countries, separates cells by another sign."""
COLUMNS = (
    "id",
    "created",
    "name",
    "file_sha256",
    "decision",
    "score",
    "calibrated",
    "in_scope",
    "alpha",
    "predicted_class",
    "p_authentic",
    "p_not_authentic",
    "regions",
    "pixel_size_um",
    "model_name",
    "model_sha256",
    "references_sha256",
    "by",
    "overruled_decision",
    "overruled_reason",
    "overruled_by",
    "overruled_at",
    "ledger_sequence",
)


def lines(database: Database, wanted: records.Filter) -> Iterator[str]:
    """Yield the lines of the CSV file, newest inspection first, `_AT_ONCE` at a time.

    The file begins with a byte order mark, so that spreadsheets read it as UTF-8.
    """
    yield "\N{BOM}" + _line(COLUMNS)
    cursor: str | None = None
    while True:
        with database.read() as session:
            rows, cursor = records.page(session, wanted, cursor, _AT_ONCE)
        yield "".join(_line(tuple(_cells(row))) for row in rows)
        if cursor is None:
            return


def harmless(cell: object) -> object:
    """Return a cell with an apostrophe before what a spreadsheet would read as a formula."""
    if not isinstance(cell, str):
        return cell
    plain = _SPLIT.sub(r"\1'", cell)
    return f"'{plain}" if cell.lstrip().startswith(_FORMULA) or cell.startswith(_FORMULA) else plain


def _cells(row: Inspection) -> Iterator[object]:
    told = row.result
    values = {
        "created": row.created.isoformat(timespec="seconds"),
        "file_sha256": row.sha256,
        "p_authentic": told["p_values"].get("authentic"),
        "p_not_authentic": told["p_values"].get("not authentic"),
        "regions": len(told["regions"]),
        "overruled_at": row.overruled_at and row.overruled_at.isoformat(timespec="seconds"),
    }
    for column in COLUMNS:
        if column in values:
            yield values[column]
        else:
            yield getattr(row, column) if hasattr(row, column) else told[column]


def _line(cells: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow([harmless(cell) for cell in cells])
    return buffer.getvalue()
