"""The start page: uploads, sent one by one, and their verdicts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, UploadFile
from starlette.responses import Response

from fusion_diff.micrograph.discover import IMAGE_SUFFIXES
from fusion_diff.service import records
from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.problems import UnauthorizedError
from fusion_diff.service.routes import inspections, models
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Alpha, Id, PixelSize
from fusion_diff.service.schemas.inspections import InspectionEntry, InspectionOut, InspectionSummary
from fusion_diff.service.scopes import Scope
from fusion_diff.service.security import Inspecting, Reader, caller_of

router = APIRouter(route_class=PageRoute)
RECENT = 8
_IDS = r"^[0-9a-f]{32}(,[0-9a-f]{32}){0,99}$"


@router.get("/")
def home(request: Request, service: ServiceDep) -> Response:
    """Show the upload form and the latest inspections."""
    caller = caller_of(request)
    if caller is None:
        raise UnauthorizedError("sign in with an API key")
    with service.database.read() as session:
        recent = records.page(session, records.Filter(), None, RECENT)[0] if caller.may(Scope.read) else []
    return render(
        request,
        "home",
        models=[each for each in models.models(service, caller).items if each.is_default or not each.retired],
        recent=[InspectionSummary.of(row) for row in recent],
        suffixes=sorted(IMAGE_SUFFIXES),
    )


@router.post("/inspect")
async def inspect(
    request: Request,
    service: ServiceDep,
    caller: Inspecting,
    file: UploadFile,
    alpha: Annotated[Alpha, Form()] = 0.1,
    pixel_size_um: Annotated[PixelSize | None, Form()] = None,
    model: Annotated[Id | None, Form()] = None,
) -> Response:
    """Inspect one micrograph, and return the row with its verdict or problem."""
    done = await inspections.inspect(request, service, caller, [file], alpha, pixel_size_um, model)
    return render(request, "verdict_rows", entries=done.results)


@router.get("/inspect/rows")
def rows(request: Request, service: ServiceDep, caller: Reader, ids: Annotated[str, Query(pattern=_IDS)]) -> Response:
    """Return the current rows of these inspections, in the given order."""
    with service.database.read() as session:
        found = records.some(session, ids.split(","))
    return render(
        request,
        "verdict_rows",
        entries=[InspectionEntry(name=row.name, inspection=InspectionOut.of(row)) for row in found],
    )
