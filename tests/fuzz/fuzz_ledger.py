"""The record of verdicts: `ledger_check.check`, on lines altered with and without their hashes made anew."""

from __future__ import annotations

import json
import random

from common import FOLDER, FindingError, bounded_memory, change_bytes, written
from structured import mutate_value

from fusion_diff.errors import TrustError
from fusion_diff.trust.ledger import FORMAT, NOTHING, canonical, chained, write_head
from fusion_diff.trust.ledger_check import check as check_ledger

MAX_LEN = 2**13
_ID = "ab" * 16


def _lines(records: list[dict]) -> list[dict]:
    """Chain records to each other."""
    lines, previous = [], NOTHING
    for sequence, record in enumerate(records):
        number = record.get("sequence", sequence)
        lines.append(chained({**record, "sequence": number, "time": "2025-01-01T00:00:00Z", "previous": previous}))
        previous = lines[-1]["hash"]
    return lines


_RECORDS = [{"format": FORMAT, "id": _ID}, *({"path": f"{name}.tif", "decision": "authentic"} for name in "abc")]
_LEDGER = b"".join(canonical(line) + b"\n" for line in _lines(_RECORDS))


def seeds() -> list[bytes]:
    """Return the ledger that its head knows, and parts of it."""
    lines = _LEDGER.splitlines(keepends=True)
    return [_LEDGER, b"".join(lines[:2]), b"".join([*lines, lines[1]]), _LEDGER[:-1]]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Alter a record and chain all lines anew; leave out, double or move a line; or change bytes anywhere."""
    lines = data.splitlines(keepends=True)
    what = rng.randrange(4)
    if what == 0 or not lines:
        return change_bytes(data, rng)
    at = rng.randrange(len(lines))
    if what == 1:
        return b"".join([*lines[:at], *rng.choice(([], [lines[at]] * 2)), *lines[at + 1 :]])
    if what == 2:
        return b"".join(rng.sample(lines, len(lines)))
    try:
        records = [json.loads(line) for line in lines]
        records[at] = mutate_value(records[at], rng)
        return b"".join(canonical(line) + b"\n" for line in _lines(records))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return change_bytes(data, rng)


def check(data: bytes) -> None:
    """Check the ledger against its head: nothing but what was written passes, whatever is chained anew."""
    path = written(data, "ledger.jsonl")
    if not (FOLDER / "ledger.jsonl.head").exists():
        write_head(path, _ID, len(_RECORDS), _lines(_RECORDS)[-1]["hash"])
    with bounded_memory():
        try:
            report = check_ledger(path)
        except TrustError as error:
            if str(path) not in str(error):
                raise FindingError("a refusal without the file's name") from error
            return
    # A line more than the head knows is what a run leaves that was killed: it passes with a note.
    ahead = data.startswith(_LEDGER) and data[len(_LEDGER) :].count(b"\n") == 1 and bool(report.note)
    if report.intact != (data == _LEDGER) and not (report.intact and ahead):
        raise FindingError(f"taken for {'whole' if report.intact else 'broken'}: {report.breaks[:3]}")
