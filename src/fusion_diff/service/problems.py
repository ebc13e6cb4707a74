"""Errors of the service as RFC 9457 problems, each with a status, a kind and a cure."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import exc
from starlette.exceptions import HTTPException
from starlette.routing import Match

from fusion_diff import errors
from fusion_diff.printable import paragraph
from fusion_diff.service.naming import ID
from fusion_diff.service.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from fusion_diff.service.metrics import Metrics

MEDIA_TYPE = "application/problem+json"
_LONGEST = 2000
_LISTED = 20
_FULL_CODES = {"SQLITE_FULL", "53100"}
"""Error codes of SQLite and PostgreSQL for a full disk."""
_READ_ONLY_CODES = {"25006"}
"""Error code of PostgreSQL for a change where it takes none, which is no OperationalError."""
_FORMS = {
    "Too many files": (413, "send them in several requests"),
    "Invalid multipart data": (400, "send multipart/form-data as curl -F and form libraries write it"),
    "Missing boundary": (400, "leave Content-Type to curl -F or the form library, which name the boundary there"),
}
"""Status and cure of what the form parser refuses without one, by the beginning of its text."""
_ROOM = {
    errno.EFBIG: "a file of the service would be larger than its system allows; raise that limit (ulimit -f)",
    errno.EDQUOT: "the service's user has no room left on the disk; free some space, or raise the quota",
}
"""What is said of errors of a disk that is not full as a whole."""
_WORDED = {
    "extra_forbidden": "unknown name; /openapi.json lists those that this takes",
    "float_parsing": "is no number; write it like 0.1",
    "missing": "is missing",
}
"""What is wrong with a value, by the framework's kind of error."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_log = logging.getLogger("fusion_diff.service")


class RefusedError(errors.ServiceError):
    """A request that is refused. Each subclass has its HTTP status.

    Attributes:
        status: HTTP status.
        retry_after: seconds after which to retry; None if retrying does not help.
    """

    status = 400

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnauthorizedError(RefusedError):
    """The API key is missing or not valid."""

    status = 401


class ForbiddenError(RefusedError):
    """The API key lacks the scope, or the request came from another site."""

    status = 403


class NotFoundError(RefusedError):
    """Nothing has that id."""

    status = 404


class ConflictError(RefusedError):
    """The request conflicts with the current state."""

    status = 409


class CancelledError(RefusedError):
    """A job that a caller has cancelled."""

    status = 409


class TooLargeError(RefusedError):
    """A file or the request is too large."""

    status = 413


class BusyError(RefusedError):
    """The queue is full, or the caller made too many requests."""

    status = 429


class UnavailableError(RefusedError):
    """The service cannot answer now: it is shutting down, or what it needs does not answer."""

    status = 503


class LateError(RefusedError):
    """The deadline cannot be met. Nothing was computed."""

    status = 504


class Problem(BaseModel):
    """A problem as defined in RFC 9457."""

    type: str = Field(description="URN of the kind of problem.")
    title: str = Field(description="Name of the HTTP status.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What is wrong, and what to do about it.")
    request_id: str | None = Field(default=None, description="Id of the request, as in the service's log.")


_STATUS: dict[type[errors.FusionDiffError], int] = {
    errors.MicrographError: 422,
    errors.ReferenceSetError: 422,
    errors.EnrolmentError: 422,
    errors.TrustError: 422,
    errors.DependencyError: 501,
    errors.DeviceError: 500,
    errors.ServiceError: 500,
}


def problem(error: BaseException, request_id: str | None = None) -> Problem:
    """Return an error as a problem. Details of faults of the service are left out."""
    if isinstance(error, RefusedError):
        return _said(error, error.status, request_id)
    if isinstance(error, errors.CheckpointError):
        told = "the model cannot be loaded or saved; look up the request id in the service's log"
        return _problem("checkpoint", 500, told, request_id)
    if isinstance(error, StoreError):
        return _problem("store", 503, "the store of images does not answer; try again later", request_id)
    if isinstance(error, errors.FusionDiffError):
        status = next((each for kind, each in _STATUS.items() if isinstance(error, kind)), 422)
        return _said(error, status, request_id)
    if errors.out_of_memory(error):
        told = "not enough memory; send a smaller micrograph, or try again later"
        return _problem("memory", 507, told, request_id)
    if _disk_full(error):
        told = _ROOM.get(getattr(error, "errno", 0), "the service's disk is full; free some space on it")
        return _problem("disk", 507, f"{told}, then try again", request_id)
    if isinstance(error, exc.OperationalError | exc.TimeoutError) or _has_code(error, _READ_ONLY_CODES):
        told = "the database cannot be reached, or takes no changes; try again later"
        return _problem("database", 503, told, request_id)
    return _problem(
        "fault", 500, "internal error of the service; look up the request id in the service's log", request_id
    )


def report(error: BaseException, request_id: str | None, metrics: Metrics) -> Problem:
    """Return an error as a problem. A fault of the service, which is no refusal, is logged and counted once."""
    told = problem(error, request_id)
    is_fault = told.status >= 500 and not isinstance(error, RefusedError)
    if is_fault and not getattr(error, "fusion_diff_reported", False):
        error.fusion_diff_reported = True  # type: ignore[attr-defined]
        _log.error("fault", exc_info=error, extra={"request_id": request_id})
        metrics.faults.labels(told.type.rpartition(":")[2]).inc()
    return told


def _disk_full(error: BaseException) -> bool:
    """Tell whether the disk of the service or of its database is full."""
    return errors.disk_full(error) or _has_code(error, _FULL_CODES)


def _has_code(error: BaseException, codes: set[str]) -> bool:
    """Tell whether an error of the database has one of these codes of SQLite and PostgreSQL."""
    orig = getattr(error, "orig", None)
    return not codes.isdisjoint(getattr(orig, name, None) for name in ("sqlite_errorname", "sqlstate"))


def _said(error: BaseException, status: int, request_id: str | None) -> Problem:
    kind = type(error).__name__.removesuffix("Error").lower()
    return _problem(kind, status, paragraph(error, _LONGEST), request_id)


def _problem(kind: str, status: int, detail: str, request_id: str | None) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(
        type=f"urn:fusion-diff:problem:{kind}", title=title, status=status, detail=detail, request_id=request_id
    )


def respond(told: Problem, *, retry_after: float | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a problem as a response."""
    extra = dict(headers or {})
    if retry_after is not None:
        extra["Retry-After"] = str(max(1, round(retry_after)))
    if told.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return JSONResponse(told.model_dump(exclude_none=True), told.status, extra, media_type=MEDIA_TYPE)


def request_id_of(request: Request) -> str | None:
    """Return the request id, as in the log."""
    return getattr(request.state, "request_id", None)


def install(app: FastAPI) -> None:
    """Install the handlers that turn errors into problems."""
    app.add_exception_handler(errors.FusionDiffError, _on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)


def reported(error: BaseException, request: Request) -> Problem:
    """Return an error as a problem of a request; see `report`."""
    return report(error, request_id_of(request), request.app.state.service.metrics)


async def _on_error(request: Request, error: Exception) -> Response:
    return respond(reported(error, request), retry_after=getattr(error, "retry_after", None))


async def on_http(request: Request, error: Exception) -> Response:
    """Answer with a problem where the framework refuses a request, such as an unknown path."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OSError | MemoryError):  # a valid body for which there was no room
        return respond(reported(error.__cause__, request))
    status, detail = error.status_code, str(error.detail)
    if detail == HTTPStatus.NOT_FOUND.phrase:  # of the router
        detail = "there is nothing at this address; /openapi.json lists those of the API"
    for beginning, (meant, cure) in _FORMS.items() if status == 400 else ():
        if detail.startswith(beginning):
            status, detail = meant, f"{detail.rstrip('.')}; {cure}"
    headers = dict(error.headers or {})
    if status == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    kind = HTTPStatus(status).phrase.lower().replace(" ", "-")
    told = _problem(kind, status, paragraph(detail, _LONGEST), request_id_of(request))
    return respond(told, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods that any route takes at the address of a request; the framework names those of one route."""
    routes, asked = request.app.router.routes, request.scope
    scopes = [{**asked, "method": method} for method in _METHODS]
    return [each["method"] for each in scopes if any(route.matches(each)[0] == Match.FULL for route in routes)]


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    lines = [f"{'.'.join(map(str, each['loc']))}: {_refused(each)}" for each in found[:_LISTED]]
    if len(found) > _LISTED:
        lines.append(f"and {len(found) - _LISTED} more")
    told = _problem("request", 422, paragraph("; ".join(lines), _LONGEST), request_id_of(request))
    return respond(told)


def _refused(found: Mapping[str, Any]) -> str:
    """Return what is wrong with a value. The framework speaks of Python and of patterns where mistakes are common."""
    if "UploadFile" in found["msg"]:
        return "is no file; send it as curl -F files=@FILE does"
    if found["type"] in _WORDED:
        return _WORDED[found["type"]]
    if found.get("ctx", {}).get("pattern") == ID:
        return "is no id; those in lists and answers have 32 digits, from 0 to f"
    return str(found["msg"])


def documented(*statuses: int, gives: str | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's responses.

    Args:
        statuses: statuses of its problems, in addition to those of every route.
        gives: media type of the successful response; JSON if omitted.
    """
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    every = (400, 401, 403, 408, 413, 422, 429, 500, 503)
    told: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}
        for status in sorted({*every, *statuses})
    }
    return told if gives is None else told | {200: {"content": {gives: {}}}}
