"""The history page: filtered inspections, charts of their scores, and the CSV export."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Select, select
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.fewshot.decision import Decision
from fusion_diff.inspection.wording import SYMBOLS
from fusion_diff.printable import printable
from fusion_diff.service import records
from fusion_diff.service.pages import sheet
from fusion_diff.service.pages.charts import HEIGHT, LEFT, RIGHT, WIDTH, Scored, drift_chart, score_chart
from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.pages.trend import BASELINE, Baseline
from fusion_diff.service.problems import RefusedError
from fusion_diff.service.reference_level import Level, logit
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.inspections import InspectionSummary
from fusion_diff.service.security import Reader
from fusion_diff.service.tables import Inspection
from fusion_diff.service.uploads import shown_name

router = APIRouter(prefix="/history", route_class=PageRoute)
ON_A_PAGE = 50
FOLLOWED = 2000
"""Most scores that the moving average covers."""
_IN_SCOPE = Inspection.result["in_scope"].as_boolean()
_CHARTED = (
    Inspection.id,
    Inspection.name,
    Inspection.created,
    Inspection.score,
    Inspection.decision,
    Inspection.overruled_decision,
    _IN_SCOPE,
)
"""The fields of `Scored`."""


@dataclass(frozen=True)
class Asked:
    """The filters of the form as text; empty if not set.

    Raises:
        RefusedError: a value is not one that the form offers.
    """

    decision: Annotated[str, Query(max_length=20)] = ""
    model: Annotated[str, Query(pattern=r"^([0-9a-f]{64})?$")] = ""
    name: Annotated[str, Query(max_length=NAME_LENGTH)] = ""
    since: Annotated[str, Query(max_length=10)] = ""
    until: Annotated[str, Query(max_length=10)] = ""
    overruled: Annotated[str, Query(pattern=r"^(yes|no)?$")] = ""

    @property
    def filter(self) -> records.Filter:
        """The filter for inspections."""
        return records.Filter(
            decision=_decision(self.decision),
            model_sha256=self.model or None,
            since=_day(self.since),
            until=_day_after(_day(self.until)),
            name=shown_name(self.name) if self.name else None,
            overruled={"yes": True, "no": False}.get(self.overruled),
        )

    @property
    def between(self) -> records.Filter:
        """The filter by days alone."""
        return records.Filter(since=self.filter.since, until=self.filter.until)

    @property
    def query(self) -> str:
        """The filters as a query string, without empty ones."""
        return urlencode({name: value for name, value in vars(self).items() if value})


AskedDep = Annotated[Asked, Depends()]


@router.get("")
def history(
    request: Request,
    service: ServiceDep,
    caller: Reader,
    asked: AskedDep,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Show inspections, newest first."""
    with service.database.read() as session:
        rows, after = records.page(session, asked.filter, cursor, ON_A_PAGE)
        models = service.shelf.all(session)
    return render(
        request,
        "history",
        asked=asked,
        rows=[InspectionSummary.of(row) for row in rows],
        after=after,
        cursor=cursor,
        models=models,
    )


@router.get("/charts")
def charts(request: Request, service: ServiceDep, caller: Reader, asked: AskedDep) -> Response:
    """Return the charts of one model's scores: the filtered model, or that of the newest inspection.

    Drift covers all of its scores between the chosen days, because other filters would bias the average. Scores out of
    scope neither set limits nor drift.
    """
    with service.database.read() as session:
        newest = records.page(session, asked.filter, None, 1)[0]
        if not newest:
            return render(request, "charts", charts=[], model="")
        judge = newest[0].model_sha256
        mine = select(Inspection).where(Inspection.model_sha256 == judge)
        scored = _newest(session, asked.filter.apply(mine))
        picked = any((asked.decision, asked.name, asked.overruled))
        followed = _newest(session, asked.between.apply(mine)) if picked else scored
        query = mine.where(_IN_SCOPE).order_by(Inspection.number).limit(BASELINE)
        first = [logit(score) for score in session.scalars(query.with_only_columns(Inspection.score))]
        model = service.shelf.newest(session, judge)
    level = None if model is None or model.level is None else Level(**model.level)
    baseline = Baseline.of(first)
    return render(
        request,
        "charts",
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT},
        charts=[score_chart(scored, baseline, level), drift_chart(followed, baseline, level, more=picked)],
        model=newest[0].result["model_name"],
    )


@router.get("/inspections.csv")
def export(service: ServiceDep, caller: Reader, asked: AskedDep) -> Response:
    """Return the filtered inspections as CSV."""
    return StreamingResponse(
        sheet.lines(service.database, asked.filter),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="inspections.csv"'},
    )


def _newest(session: Session, query: Select[Any]) -> list[Scored]:
    """Return the `FOLLOWED` newest inspections, oldest first."""
    query = query.order_by(Inspection.number.desc()).limit(FOLLOWED).with_only_columns(*_CHARTED)
    return [Scored(*row) for row in reversed(session.execute(query).all())]


def _day(text: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        return dt.datetime.combine(dt.date.fromisoformat(text), dt.time(), dt.UTC)
    except ValueError:
        raise RefusedError(f"{printable(text)!r} is not a day; write it as 2026-03-31") from None


def _day_after(day: dt.datetime | None) -> dt.datetime | None:
    """Return the following day; None, for no limit, after the last day of the calendar."""
    try:
        return None if day is None else day + dt.timedelta(days=1)
    except OverflowError:
        return None


def _decision(text: str) -> Decision | None:
    found = next((decision for decision in SYMBOLS if decision == text), None)
    if text and found is None:
        raise RefusedError(f"{printable(text)!r} is not a decision; choose one of {', '.join(SYMBOLS)}")
    return found
