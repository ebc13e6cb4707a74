"""Rendering of pages: the template environment, common variables, and errors as pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fusion_diff import __version__
from fusion_diff.errors import FusionDiffError
from fusion_diff.inspection import pages
from fusion_diff.inspection.wording import SYMBOLS
from fusion_diff.printable import paragraph
from fusion_diff.service import problems
from fusion_diff.service.naming import model_label
from fusion_diff.service.problems import NotFoundError, UnauthorizedError, reported
from fusion_diff.service.request_bodies import HoldingRoute, Route
from fusion_diff.service.security import caller_of, csrf_token
from fusion_diff.verdict.reasons import main_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from datetime import datetime

    from fastapi import FastAPI
    from jinja2 import Environment
    from starlette.requests import Request

TEMPLATES = Path(__file__).with_name("templates")
_NO_PAGE = "There is no page at this address. It may be mistyped, or its subject was removed."


class PageRoute(Route):
    """A route that answers browser navigation with errors as pages.

    Requests of htmx and of scripts get a problem as from the API, and show its text.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await answer(request)
            except (FusionDiffError, RequestValidationError) as error:
                if isinstance(error, UnauthorizedError) and (navigates(request) or is_htmx(request)):
                    return _to_sign_in(request)
                if not navigates(request):
                    raise
                return _told(request, error)

        return answered


class HoldingPageRoute(HoldingRoute, PageRoute):
    """A `PageRoute` that holds the slot for receiving files until the answer."""


def install(app: FastAPI) -> None:
    """Show unknown addresses as a page to browsers. Those under the API stay problems."""
    app.add_exception_handler(HTTPException, _on_http)


async def _on_http(request: Request, error: Exception) -> Response:
    if navigates(request) and not request.url.path.startswith("/v1/"):
        return _told(request, NotFoundError(_NO_PAGE))
    return await problems.on_http(request, error)


def _told(request: Request, error: FusionDiffError | RequestValidationError) -> Response:
    """Return an error as a page. A missing resource gets a text without addresses of the API."""
    if isinstance(error, RequestValidationError | NotFoundError):
        error = NotFoundError(_NO_PAGE)
    told = reported(error, request)
    return render(request, "problem", told.status, told=told)


def render(request: Request, name: str, status: int = 200, **told: object) -> HTMLResponse:
    """Render a template with the common variables and the given ones.

    Args:
        request: the request.
        name: name of the template without suffixes.
        status: HTTP status.
        told: variables of the template.
    """
    common: Mapping[str, object] = {
        "caller": caller_of(request),
        "csrf_token": csrf_token(request),
        "insecure": request.app.state.service.settings.insecure,
        "path": request.url.path,
        "symbols": SYMBOLS,
        "version": __version__,
    }
    return HTMLResponse(_environment().get_template(f"{name}.html.j2").render(**common, **told), status)


def goto(request: Request, path: str) -> Response:
    """Redirect a browser to a page of the service, for plain and for htmx requests."""
    if is_htmx(request):
        return Response(status_code=204, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def is_htmx(request: Request) -> bool:
    """Tell whether htmx made the request, and inserts the answer into an open page."""
    return "hx-request" in request.headers


def navigates(request: Request) -> bool:
    """Tell whether a browser navigates to the address."""
    return request.method == "GET" and not is_htmx(request) and "text/html" in request.headers.get("accept", "")


def _to_sign_in(request: Request) -> Response:
    shown = request.headers.get("hx-current-url", "") if is_htmx(request) else str(request.url)
    try:
        parts = urlsplit(shown)
    except ValueError:
        parts = urlsplit("/")
    back = parts.path + (f"?{parts.query}" if parts.query else "")
    return goto(request, f"/sign-in?next={quote(back, safe='')}")


@cache
def _environment() -> Environment:
    found = pages.environment(TEMPLATES)
    found.filters |= {"moment": _moment, "kind": _kind, "model_label": model_label, "sentence": _sentence}
    found.filters["main_reason"] = main_reason
    return found


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _sentence(text: str) -> str:
    """Return a problem's text with a capital and a full stop; a name of a file or an option stays as it is."""
    text = paragraph(text)
    first = text.split(" ", 1)[0]
    text = text[:1].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _kind(decision: str) -> str:
    """Return the CSS class of a decision."""
    return decision.replace(" ", "-")
