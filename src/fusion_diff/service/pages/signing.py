"""Signing in with an API key, and signing out."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from fusion_diff.service.pages.rendering import PageRoute, goto, is_htmx, render
from fusion_diff.service.problems import UnauthorizedError, request_id_of
from fusion_diff.service.security import begin_session, caller_of, end_session

router = APIRouter(route_class=PageRoute)
_KEY_LENGTH = 200
_log = logging.getLogger("fusion_diff.service")


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    """Show the form for the API key."""
    if caller_of(request) is not None:
        return goto(request, _own(next))
    return render(request, "sign_in", next=_own(next), error=None)


@router.post("/sign-in")
def sign_in(
    request: Request,
    key: Annotated[str, Form(max_length=_KEY_LENGTH)] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Sign in, and go to the page that was asked for."""
    response = goto(request, _own(next))
    try:
        request.state.caller = begin_session(request, response, key)  # for the log
    except UnauthorizedError as error:
        address = request.client.host if request.client is not None else None
        _log.warning("sign-in refused", extra={"request_id": request_id_of(request), "peer": address})
        # htmx inserts only answers with status 200
        return (
            render(request, "sign_in_form", 200, next=_own(next), error=error)
            if is_htmx(request)
            else render(request, "sign_in", 401, next=_own(next), error=error)
        )
    return response


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """Sign out."""
    response = goto(request, "/sign-in")
    end_session(request, response)
    return response


def _own(path: str) -> str:
    """Return the path if it is one of this service, else `/`, so that no link leads to another site."""
    plain = path.isascii() and path.isprintable() and path.startswith("/") and path[1:2] not in ("/", "\\")
    return path if plain else "/"
