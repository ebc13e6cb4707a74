"""Static files of the pages: the style sheet, htmx and the pages' scripts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

router = APIRouter(prefix="/static")
_FILES = StaticFiles(directory=Path(__file__).with_name("static"))


@router.get("/{name}")
async def file(request: Request, name: str) -> Response:
    """Return a file. Browsers cache it and revalidate it on each use."""
    response = await _FILES.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response
