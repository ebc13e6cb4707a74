"""The FastAPI app: routes, middleware, and the service parts that open and close with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import Depends, FastAPI
from fastapi.middleware import Middleware
from starlette.formparsers import MultiPartParser

from fusion_diff import __version__
from fusion_diff.dependencies import missing
from fusion_diff.references.reference import MAX_REFERENCES
from fusion_diff.service import pages, problems
from fusion_diff.service.middleware import Observer
from fusion_diff.service.pages import rendering
from fusion_diff.service.routes import health, inspections, jobs, models, record, references
from fusion_diff.service.runtime import Service
from fusion_diff.service.security import Gate
from fusion_diff.service.unknown_fields import expect_declared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi.telemetry import TelemetryConfig

    from fusion_diff.service.settings import Settings

_SPOOL_BYTES = 2**16
"""Bytes of an upload held in memory; the rest goes to disk, because a request may have many files."""
_FIELDS = MAX_REFERENCES + 24
"""Most form fields that are not files. Each reference selected on a page is one."""
_FIELD_BYTES = 2**13
"""Longest form field in bytes. The longest that is used is a reason of 2000 characters."""
MultiPartParser.spool_max_size = _SPOOL_BYTES  # of the class, as FastAPI gives no way to set it for one app


def create_app(settings: Settings, opened: Service | None = None) -> FastAPI:
    """Return the app. It closes the service parts when it stops.

    Args:
        settings: the settings of the service.
        opened: the open service parts. If omitted, they are opened when the app starts, with the errors of
            `Service.open`.

    Raises:
        DependencyError: telemetry is on and its packages are not installed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = await to_thread.run_sync(Service.open, settings) if opened is None else opened
        app.state.service = service
        try:
            yield
        finally:
            await to_thread.run_sync(service.close)

    app = FastAPI(
        title="FusionDiff",
        summary="Verifies ceramic microstructures from a handful of labelled micrographs.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their scripts would be loaded from another host
        redoc_url=None,
        redirect_slashes=False,  # it would lead to whatever host the request names
        middleware=[Middleware(Observer), Middleware(Gate)],
        telemetry=_telemetry(settings),
        form_limits={"max_files": settings.max_files, "max_fields": _FIELDS, "max_part_size": _FIELD_BYTES},
    )
    problems.install(app)
    rendering.install(app)
    for api in (inspections, references, jobs, models, record):
        app.include_router(api.router, dependencies=[Depends(expect_declared)])
    for module in (health, pages):
        app.include_router(module.router)
    return app


def _telemetry(settings: Settings) -> TelemetryConfig:
    """Return the telemetry configuration: times and routes of requests, without their content."""
    if settings.telemetry and find_spec("opentelemetry.sdk") is None:
        raise missing("telemetry", "fastapi[opentelemetry]", extra="telemetry")
    return {
        "auto_configure": settings.telemetry,
        "tracing": settings.telemetry,
        "metrics": settings.telemetry,
        "logs": False,  # would include request content
    }
