"""`/v1/ledger`: the hash-chained ledger, which `fusion-diff audit` checks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from fusion_diff.service import ledger
from fusion_diff.service.problems import documented
from fusion_diff.service.request_bodies import Route
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.security import Reader

router = APIRouter(prefix="/v1/ledger", tags=["ledger"], route_class=Route)


@router.get("", response_class=StreamingResponse, responses=documented(gives="application/jsonl"))
def lines(
    service: ServiceDep,
    caller: Reader,
    through: Annotated[
        int | None, Query(ge=1, le=2**62, description="Number of lines: the `count` of a head fetched before.")
    ] = None,
) -> StreamingResponse:
    """Return the ledger as JSON Lines: FILE of `fusion-diff audit FILE`."""
    with service.database.read() as session:
        count = ledger.head(session)["count"]
    body = ledger.lines(service.database, count if through is None else min(through, count))
    return StreamingResponse(body, media_type="application/jsonl")


@router.get("/head", response_class=Response, responses=documented(gives="application/json"))
def head(service: ServiceDep, caller: Reader) -> Response:
    """Return the number of lines and the last hash: `FILE.head`. Note the hash elsewhere now and then."""
    with service.database.read() as session:
        return Response(ledger.head_bytes(session), media_type="application/json")
