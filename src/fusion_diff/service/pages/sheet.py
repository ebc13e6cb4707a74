"""Inspections as streamed CSV for spreadsheets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.inspection.spreadsheet import HEAD, line
from fusion_diff.service import records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_diff.service.database import Database
    from fusion_diff.service.tables import Inspection

_AT_ONCE = 200
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
    """Yield the lines of the CSV file, newest inspection first, `_AT_ONCE` at a time."""
    yield HEAD + line(COLUMNS)
    cursor: str | None = None
    while True:
        with database.read() as session:
            rows, cursor = records.page(session, wanted, cursor, _AT_ONCE)
        yield "".join(line(_cells(row)) for row in rows)
        if cursor is None:
            return


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
