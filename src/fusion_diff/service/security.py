"""Authentication and scopes: the middleware that checks every request, and the dependencies of routes."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers

from fusion_diff.service import keys, metrics_access
from fusion_diff.service.keys import ANYBODY, Caller
from fusion_diff.service.metrics_access import Watchers
from fusion_diff.service.problems import (
    BusyError,
    ForbiddenError,
    RefusedError,
    UnauthorizedError,
    problem,
    respond,
)
from fusion_diff.service.rates import KeyIds, Owners, network
from fusion_diff.service.scopes import Scope
from fusion_diff.service.sessions import COOKIE, CSRF_HEADER, LASTS_SECONDS, end, is_ended
from fusion_diff.service.settings import LOOPBACK

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as Connection

    from fusion_diff.service.rates import RateLimit
    from fusion_diff.service.runtime import Service

_SAFE = ("GET", "HEAD", "OPTIONS")
_COOKIE = re.compile(rf"(?:^|;)[ \t]*{COOKIE}=([0-9A-Za-z._-]{{1,300}})[ \t]*(?:;|$)".encode())
_GUARDED = re.compile(r"/v1(/|$)|/metrics$")
_ALIVE = "/healthz"
_READY = "/readyz"
_NO_KEY = "an API key is needed; send it as Authorization: Bearer KEY"


class Gate:
    """Middleware that identifies the caller. Refuses unknown callers, other sites and too many requests.

    The API and the metrics need a caller. On all other paths, pages decide what to do without one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._watchers, self._owners, self._ids = app, Watchers(), Owners(), KeyIds()

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] == "http":
            scope["headers"] = _with_own_cookie_only(scope["headers"])
        if scope["type"] != "http" or scope["path"] == _ALIVE:
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        service: Service = scope["app"].state.service
        try:
            state["caller"] = await self._admitted(scope, service)
        except RefusedError as error:
            told = problem(error, state.get("request_id"))
            await respond(told, retry_after=error.retry_after)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _admitted(self, scope: Connection, service: Service) -> Caller | None:
        """Return the caller; None for a page without one.

        The rate limit holds before the database is asked: that of the key if the credential was valid the last time,
        else that of the address. So unknown keys cannot use up the limit of a key, nor make the database work. Where
        others have used up the limit of the address, a key or session that this process has not seen yet has one of
        its own there, if it names a key that exists: made-up keys do not lock out others at their address.
        """
        origin = f"from {network((scope.get('client') or ('unknown',))[0])}"
        if scope["path"] == _READY:  # it asks database and store; by itself, so that no other request refuses probes
            _take(service.rates, f"ready {origin}")
            return None
        if scope["path"] != metrics_access.PATH:
            service.slots.check_connections()
        headers = Headers(scope=scope)
        _check_site(headers, scope["method"], insecure=service.settings.insecure)
        if service.settings.insecure:
            _take(service.rates, origin)
            return ANYBODY
        credential = _credential(headers)
        owner = self._owners.get(credential)
        bucket = owner or await self._take_unseen(headers, service, origin)
        if owner is not None:
            _take(service.rates, owner)
        try:
            ask = partial(_caller, headers, scope["method"], service)
            if scope["path"] == metrics_access.PATH:
                caller = await self._watchers.caller(headers.get("authorization", ""), ask)
            else:
                caller = await to_thread.run_sync(ask)
        except UnauthorizedError:
            self._owners.forget(credential)
            raise
        if caller is None:
            self._owners.forget(credential)
            if _GUARDED.match(scope["path"]):
                raise UnauthorizedError(_NO_KEY)
        elif owner is None:
            self._owners.remember(credential, caller.id)
            service.rates.give_back(bucket)
            _take(service.rates, caller.id)
        return caller

    async def _take_unseen(self, headers: Headers, service: Service, origin: str) -> str:
        """Take a token for a credential that is not remembered, and return the bucket it was taken from."""
        try:
            _take(service.rates, origin)
        except BusyError:
            key_id = await self._existing_id(headers, service)
            if key_id is None:
                raise
        else:
            return origin
        bucket = f"{key_id} {origin}"  # with the origin, so that who knows the id cannot use it up from elsewhere
        _take(service.rates, bucket)
        return bucket

    async def _existing_id(self, headers: Headers, service: Service) -> str | None:
        """Return the id of the key that a request names; None if no such key exists. The secret is not checked."""
        key = _key(headers)
        if key is None:
            signed = service.sessions.read(session_cookie(headers))  # its signature is checked without the database
            return None if signed is None else signed.key_id
        key_id = keys.id_of(key)
        if key_id is None:
            return None
        with suppress(SQLAlchemyError, TimeoutError):
            if await self._ids.include(key_id, partial(metrics_access.in_time, partial(_valid_ids, service))):
                return key_id
        return None


def _take(rates: RateLimit, caller: str) -> None:
    wait = rates.wait(caller)
    if wait > 0:
        raise BusyError("too many requests; try again after the number of seconds in Retry-After", retry_after=wait)


def _valid_ids(service: Service) -> frozenset[str]:
    with service.database.read() as session:
        return keys.valid_ids(session)


def _key(headers: Headers) -> str | None:
    """Return the API key of a request; None without an `Authorization` header, empty if that is of another kind."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if not kind:
        return None
    return key.strip() if kind.lower() == "bearer" else ""


def _credential(headers: Headers) -> bytes:
    """Return the digest of the API key or the session cookie; the same however the header is spaced."""
    key = _key(headers)
    told = session_cookie(headers) if key is None else f"bearer {key}"
    return hashlib.sha256(told.encode()).digest()


def _check_site(headers: Headers, method: str, *, insecure: bool) -> None:
    """Refuse requests from pages of other sites, and without API keys any host name but loopback."""
    host = headers.get("host", "")
    if insecure and _hostname(host) not in LOOPBACK:
        raise ForbiddenError(f"a service without API keys (--insecure) answers only at {LOOPBACK[0]}; use that address")
    if method in _SAFE:
        return
    origin = headers.get("origin")
    elsewhere = origin is not None and origin.partition("://")[2] != host
    if elsewhere or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ForbiddenError(
            "requests from pages of other sites are refused; a proxy has to pass the Host header on unchanged"
        )


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _caller(headers: Headers, method: str, service: Service) -> Caller | None:
    """Return the caller by API key or session; None if neither is given."""
    key = _key(headers)
    if key is not None:
        return _caller_of_key(service, key)
    cookie = session_cookie(headers)
    signed = service.sessions.read(cookie) if cookie else None
    if signed is None:
        return None
    if method not in _SAFE and not service.sessions.is_csrf_token(headers.get(CSRF_HEADER, ""), cookie):
        raise ForbiddenError("the X-CSRF-Token header is missing or belongs to another session; reload the page")
    with service.database.read() as session:
        return None if is_ended(session, signed) else keys.caller_by_id(session, signed.key_id)


def _caller_of_key(service: Service, key: str) -> Caller:
    with service.database.read() as session:
        caller = keys.caller_of(session, key)
    if caller is None:
        raise UnauthorizedError("the API key is not valid; ask the administrator for one")
    return caller


def _with_own_cookie_only(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request with no cookie but the session's, and that only if it has a cookie's form.

    The framework parses all cookies of a request, those of other programs on the host too, and takes seconds for
    some of 60 KB (CVE-2024-7592).
    """
    kept = [(name, value) for name, value in headers if name != b"cookie"]
    if len(kept) == len(headers):
        return headers
    for name, value in headers:
        if name == b"cookie" and (found := _COOKIE.search(value)) is not None:
            return [*kept, (name, COOKIE.encode() + b"=" + found[1])]
    return kept


def session_cookie(headers: Headers) -> str:
    """Return the session cookie; empty if there is none. The gate has left no other."""
    return headers.get("cookie", "").removeprefix(f"{COOKIE}=")


def csrf_token(request: Request) -> str:
    """Return the token that pages of this session send as `X-CSRF-Token`."""
    service: Service = request.app.state.service
    return service.sessions.csrf_token(session_cookie(request.headers))


def begin_session(request: Request, response: Response, key: str) -> Caller:
    """Sign a browser in with an API key. The response sets the session cookie, which scripts cannot read.

    Raises:
        UnauthorizedError: the key is not valid.
    """
    service: Service = request.app.state.service
    caller = _caller_of_key(service, key.strip())
    response.set_cookie(
        COOKIE,
        service.sessions.begin(caller.id),
        max_age=LASTS_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return caller


def end_session(request: Request, response: Response) -> None:
    """Sign a browser out. Copies of its cookie become invalid too, and it is to forget the pictures that it keeps."""
    service: Service = request.app.state.service
    signed = service.sessions.read(session_cookie(request.headers))
    if signed is not None:
        with service.database.write() as session:
            end(session, signed)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    response.headers["Clear-Site-Data"] = '"cache"'


def caller_of(request: Request) -> Caller | None:
    """Return the caller of a request; None for a page without a session."""
    return cast("Caller | None", getattr(request.state, "caller", None))


_BEARER = HTTPBearer(auto_error=False, description="An API key, made with `fusion-diff service-keys new`.")


class Needs:
    """A dependency that returns the caller, and refuses a caller without any of these scopes.

    `request_bodies.Route` calls it before it reads a body; FastAPI calls it again for the route's argument.
    """

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = scopes

    async def __call__(self, request: Request, _documented: Annotated[object, Depends(_BEARER)]) -> Caller:
        """Return the caller; see `check`."""
        return self.check(request)

    def check(self, request: Request) -> Caller:
        """Return the caller.

        Raises:
            UnauthorizedError: there is no caller.
            ForbiddenError: the key lacks the scopes.
        """
        caller = caller_of(request)
        if caller is None:
            raise UnauthorizedError(_NO_KEY)
        if not any(caller.may(scope) for scope in self._scopes):
            lacking = " or ".join(self._scopes)
            raise ForbiddenError(f"the API key {caller.name} lacks the scope {lacking}; use a key that has it")
        return caller


Reader = Annotated[Caller, Depends(Needs(Scope.read))]
Inspecting = Annotated[Caller, Depends(Needs(Scope.inspect))]
Enrolling = Annotated[Caller, Depends(Needs(Scope.enrol))]
Asking = Annotated[Caller, Depends(Needs(Scope.read, Scope.enrol))]
Admin = Annotated[Caller, Depends(Needs(Scope.admin))]
