"""Request bodies: read after the caller's scopes are checked, up to a size limit and at a minimum rate."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from anyio import fail_after
from fastapi import Request
from fastapi.params import File
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException

from fusion_diff.counted import sized
from fusion_diff.references.reference import MAX_REFERENCES
from fusion_diff.service.problems import TooLargeError
from fusion_diff.service.security import Needs, caller_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.responses import Response
    from starlette.types import Message, Receive

    from fusion_diff.service.runtime import Service

MAX_PLAIN_BYTES = 1 << (40 * MAX_REFERENCES).bit_length()
"""Largest body without files. The longest that is used lists references selected on a page, 40 bytes each."""
PATIENCE_SECONDS = 30.0
"""Longest wait for more of a body, at first and after a burst."""
SLOWEST = 2**13
"""Bytes per second at which a body is never too slow, whatever its size."""
_CUT_OFF = (
    "the form ends before its last line, --boundary--, so files or fields may be missing; send it again, whole, with "
    "the Content-Length of all of it"
)


class Route(APIRoute):
    """A route that checks the caller's scopes before it reads the body; FastAPI by itself parses the body first."""

    holds = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        answer = super().get_route_handler()
        needs = [each.call for each in self.dependant.dependencies if isinstance(each.call, Needs)]
        files = any(isinstance(field.field_info, File) for field in self.dependant.body_params)

        async def received(request: Request) -> Response:
            for need in needs:
                need.check(request)
            service: Service = request.app.state.service
            async with AsyncExitStack() as held:
                limit = MAX_PLAIN_BYTES
                kind, options = parse_options_header(request.headers.get("content-type"))
                closing = None
                if kind == b"multipart/form-data" and options.get(b"boundary"):
                    closing = b"--" + options[b"boundary"] + b"--"
                if files and kind == b"multipart/form-data":
                    limit = service.settings.max_request_bytes
                    caller = caller_of(request)
                    await held.enter_async_context(service.slots.upload("" if caller is None else caller.id))
                length = request.headers.get("content-length", "0")
                if length.isdecimal() and int(length[:20]) > limit:
                    raise TooLargeError(_too_large(limit))
                ended = _nothing if self.holds else held.aclose
                return await answer(Request(request.scope, bounded(request.receive, limit, ended, closing)))

        return received


class HoldingRoute(Route):
    """A route that holds the slot for receiving files until the answer.

    For requests that wait after the body is read: their files stay on disk meanwhile.
    """

    holds = True


async def _nothing() -> None:
    pass


def bounded(
    receive: Receive,
    limit: int,
    ended: Callable[[], Awaitable[None]],
    closing: bytes | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Receive:
    """Return a `receive` that limits size and slowness of a body, whatever its `Content-Length` says.

    It refuses a form that was cut off, because parsing it leaves out what is not complete without an error.

    Args:
        receive: gives the parts of the body.
        limit: most bytes.
        ended: called once the whole body is there.
        closing: the line that ends the form; None if the body is none. Text may follow it (RFC 2046).
        patience: seconds of waiting allowed; every `SLOWEST` bytes give one second back.

    It raises `HTTPException`, the only kind of error that form parsing lets through.
    """
    size, left, more, tail, whole = 0, patience, True, b"", False

    async def counted() -> Message:
        nonlocal size, left, more, tail, whole
        if not more:
            return await receive()
        started = time.monotonic()
        try:
            with fail_after(left):
                message = await receive()
        except TimeoutError:
            told = f"the body arrives too slowly, below {SLOWEST} bytes per second; use a faster connection"
            raise HTTPException(408, told, {"Connection": "close"}) from None
        body = message.get("body", b"")
        came = len(body)
        size += came
        left = min(patience, left - (time.monotonic() - started) + came / SLOWEST)
        if size > limit:
            raise HTTPException(413, _too_large(limit))
        more = message.get("more_body", False)
        if closing is not None:
            window = tail + body
            whole, tail = whole or closing in window, window[-len(closing) :]
            if not more and size and not whole:
                raise HTTPException(400, _CUT_OFF)
        if not more:
            await ended()
        return message

    return counted


def _too_large(limit: int) -> str:
    return f"the request is larger than {sized(limit)}; send fewer files at once, and shorter fields"
