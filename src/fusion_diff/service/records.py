"""The recorded inspections: finding, filtering and overruling them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import defer

from fusion_diff.inspection.ledger_entry import overruling
from fusion_diff.printable import paragraph
from fusion_diff.service import ledger
from fusion_diff.service.problems import ConflictError, NotFoundError, RefusedError
from fusion_diff.service.tables import Inspection, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from fusion_diff.fewshot.decision import Decision

MAX_REASON = 2000
"""Most characters of a reason."""
MAX_OVERRULINGS = 100
"""Most overrulings of an inspection. The last one can be taken back nevertheless."""


@dataclass(frozen=True)
class Filter:
    """Criteria for inspections; a criterion of None accepts all.

    Attributes:
        decision: the decision in force: the expert's if overruled, else the model's.
        model_sha256: digest of the model.
        since: earliest time, inclusive.
        until: latest time, exclusive.
        name: part of the micrograph's name, ignoring case.
        overruled: whether an expert overruled the verdict.
    """

    decision: Decision | None = None
    model_sha256: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    name: str | None = None
    overruled: bool | None = None

    def apply(self, query: Select[Any]) -> Select[Any]:
        """Return the query restricted by the criteria."""
        if self.decision is not None:
            made = Inspection.overruled_decision.is_(None) & (Inspection.decision == self.decision)
            query = query.where(made | (Inspection.overruled_decision == self.decision))
        if self.model_sha256 is not None:
            query = query.where(Inspection.model_sha256 == self.model_sha256)
        if self.since is not None:
            query = query.where(Inspection.created >= self.since)
        if self.until is not None:
            query = query.where(Inspection.created < self.until)
        if self.name is not None:
            query = query.where(Inspection.name.icontains(self.name, autoescape=True))
        if self.overruled is not None:
            query = query.where(Inspection.overruled_decision.is_not(None) == self.overruled)
        return query


def page(session: Session, wanted: Filter, cursor: str | None, limit: int) -> tuple[Sequence[Inspection], str | None]:
    """Return a page of inspections, newest first, and the cursor of the next page; None at the end.

    New inspections do not shift the page that a cursor points at.

    Raises:
        RefusedError: the cursor is invalid.
    """
    query = wanted.apply(select(Inspection).options(defer(Inspection.overrulings, raiseload=True)))
    query = query.order_by(Inspection.number.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Inspection.number < _number(cursor))
    rows = session.scalars(query).all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], _cursor(rows[limit - 1].number)


def get_inspection(session: Session, inspection_id: str) -> Inspection:
    """Return an inspection.

    Raises:
        NotFoundError: no inspection has that id.
    """
    row = session.scalar(select(Inspection).where(Inspection.id == inspection_id))
    if row is None:
        raise NotFoundError(f"no inspection has the id {inspection_id}; GET /v1/inspections lists all")
    return row


def under_another_name(session: Session, row: Inspection) -> str | None:
    """Return the id of the first inspection of a new one's bytes under another name; None if there is none."""
    query = select(Inspection.id).where(Inspection.sha256 == row.sha256, Inspection.name != row.name)
    return session.scalar(query.order_by(Inspection.number).limit(1))


def some(session: Session, ids: Sequence[str]) -> list[Inspection]:
    """Return the inspections with these ids, in their order, without those that do not exist."""
    found = {row.id: row for row in session.scalars(select(Inspection).where(Inspection.id.in_(ids)))}
    return [found[each] for each in ids if each in found]


def overrule(session: Session, inspection_id: str, decision: Decision, reason: str, by: str) -> Inspection:
    """Overrule a verdict in its row and with a new ledger line; the model's decision stays in both.

    Giving the model's own decision withdraws an overruling, which also adds a ledger line.

    Raises:
        NotFoundError: no inspection has that id.
        ConflictError: the decision is the model's own, and nothing was overruled; or it was overruled too often.
    """
    row = get_inspection(session, inspection_id)
    session.refresh(row, with_for_update=True)  # else one of two concurrent overrulings would be lost
    withdrawn = decision == row.decision
    if withdrawn and row.overruled_decision is None:
        raise ConflictError(f"the model's own decision is {decision} already; there is nothing to overrule")
    if not withdrawn and len(row.overrulings) >= MAX_OVERRULINGS:
        raise ConflictError(
            f"{row.name}: overruled {MAX_OVERRULINGS} times already; take the last one back with the model's own "
            "decision, or inspect the micrograph again"
        )
    reason, at = paragraph(reason, MAX_REASON), now()
    line = overruling(
        row.id,
        file=row.name,
        file_sha256=row.sha256,
        was=row.overruled_decision or row.decision,
        decision=decision,
        reason=reason,
        by=by,
        withdrawn=withdrawn,
    )
    ledger.append(session, [line])
    row.overrulings = [*row.overrulings, {"decision": decision, "reason": reason, "by": by, "at": at.isoformat()}]
    row.overruled_decision, row.overruled_reason = (None, None) if withdrawn else (decision, reason)
    row.overruled_by, row.overruled_at = (None, None) if withdrawn else (by, at)
    return row


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def _number(cursor: str) -> int:
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise RefusedError("the cursor is not valid; leave it out to begin with the newest")
    return number
