"""The hash-chained ledger in the database, with lines in the format of `trust.ledger`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusion_diff.errors import ServiceError
from fusion_diff.service.tables import LedgerHead, LedgerLine
from fusion_diff.trust.ledger import NOTHING, canonical, following, head_record, header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from fusion_diff.service.database import Database

_ONLY = 1
_AT_ONCE = 1000


def start(session: Session) -> None:
    """Write the first line of the ledger if it has none."""
    if session.get(LedgerHead, _ONLY) is None:
        first = header()
        session.add(LedgerHead(only=_ONLY, ledger_id=first["id"], count=0, hash=NOTHING))
        append(session, [first])


def append(session: Session, records: Iterable[Mapping[str, Any]]) -> list[LedgerLine]:
    """Append lines in the caller's transaction, and return them. The chain is locked until that ends.

    Raises:
        TrustError: a line is too long for a ledger.
        ServiceError: the ledger has no first line.
    """
    session.flush()
    head = _locked_head(session)
    lines = []
    for record in records:
        added, line = following(record, head.count, head.hash)
        lines.append(LedgerLine(sequence=head.count, hash=added["hash"], line=line.decode("ascii")))
        head.count, head.hash = head.count + 1, added["hash"]
    session.add_all(lines)
    session.flush()
    return lines


def holds(session: Session, hashes: Sequence[str]) -> set[str]:
    """Return which of these hashes are of lines. The chain is locked, so no commit of one of them is still under way.

    Raises:
        ServiceError: the ledger has no first line.
    """
    _locked_head(session)
    return set(session.scalars(select(LedgerLine.hash).where(LedgerLine.hash.in_(hashes))))


def version(session: Session, sequence: int) -> str:
    """Return the version of FusionDiff that wrote a line."""
    told: str = json.loads(session.get_one(LedgerLine, sequence).line)["version"]
    return told


def _locked_head(session: Session) -> LedgerHead:
    head = session.scalar(select(LedgerHead).where(LedgerHead.only == _ONLY).with_for_update())
    if head is None:
        raise ServiceError("the database has no ledger; restore it from a backup")
    return head


def head(session: Session) -> dict[str, Any]:
    """Return the record that `FILE.head` holds beside an exported ledger."""
    row = session.get_one(LedgerHead, _ONLY)
    return head_record(row.ledger_id, row.count, row.hash)


def lines(database: Database, through: int) -> Iterator[bytes]:
    """Yield the first `through` lines with their line breaks, `_AT_ONCE` lines at a time."""
    for first in range(0, through, _AT_ONCE):
        last = min(first + _AT_ONCE, through)
        with database.read() as session:
            query = select(LedgerLine.line).where(LedgerLine.sequence >= first, LedgerLine.sequence < last)
            found = session.scalars(query.order_by(LedgerLine.sequence)).all()
        yield b"".join(line.encode("ascii") + b"\n" for line in found)


def head_bytes(session: Session) -> bytes:
    """Return the content of `FILE.head`."""
    return canonical(head(session)) + b"\n"
