"""Middleware around every request: a request id, a log line, metrics, and security headers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from fusion_diff.service.problems import UnavailableError, problem, report, respond

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods counted by name. Clients may send any word, and each would become a time series."""
LOGGED = 500
"""Characters kept in the log of what a client or a proxy may make as long as it likes."""
_log = logging.getLogger("fusion_diff.service")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""Default content security policy: all content from this host, no inline scripts or styles."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Headers set on responses that do not set them."""


class Observer:
    """The outermost middleware of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, log it and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begun, status, started = False, 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:  # shutdown time is over while the body or the answer is in transit
            if not begun:
                late = UnavailableError("the service is shutting down; try again in a moment")
                await respond(problem(late, request_id), retry_after=5)(scope, receive, watched)
            raise
        except Exception as error:
            if begun:
                raise
            told = report(error, request_id, scope["app"].state.service.metrics)
            await respond(told)(scope, receive, watched)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        metrics = scope["app"].state.service.metrics
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(method if route != "other" else "any", route, str(status)).observe(seconds)
        if status >= 400:
            metrics.refusals.labels(str(status)).inc()
        caller = scope["state"].get("caller")
        _log.info(
            "request",
            extra={
                "request_id": scope["state"]["request_id"],
                "method": scope["method"],
                "path": scope["path"][:LOGGED],
                "status": status,
                "seconds": round(seconds, 4),
                "caller": caller.id if caller is not None else None,
                "peer": scope["client"][0][:LOGGED] if scope.get("client") else None,
            },
        )
