"""Browser sessions: a signed, expiring cookie with the id of an API key, and tokens against forged requests.

The cookie does not contain the key. It ends when it expires, when the browser signs out, or when the key is revoked.
The database keeps signed-out sessions until they would have expired.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete

from fusion_diff.service.tables import EndedSession, new_id, now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

COOKIE = "fusion_diff_session"
CSRF_HEADER = "x-csrf-token"
SECRET_BYTES = 32
LASTS_SECONDS = 12 * 3600


class Signed(NamedTuple):
    """The content of a cookie.

    Attributes:
        key_id: id of the API key that signed in.
        id: id of the session.
        ends: expiry in seconds since 1970.
    """

    key_id: str
    id: str
    ends: int


class Sessions:
    """Signs and checks cookies with a secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def begin(self, key_id: str, at: float | None = None) -> str:
        """Return the cookie of a new session for this API key."""
        ends = int((time.time() if at is None else at) + LASTS_SECONDS)
        told = f"{key_id}.{new_id()}.{ends}"
        return f"{told}.{self._sign('session', told)}"

    def read(self, cookie: str, at: float | None = None) -> Signed | None:
        """Return the content of a cookie; None if its signature is wrong or it has expired."""
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", told).encode()):
            return None
        key_id, session_id, ends = told.split(".")
        signed = Signed(key_id, session_id, int(ends))
        return signed if signed.ends > (time.time() if at is None else at) else None

    def csrf_token(self, cookie: str) -> str:
        """Return the token that pages send in the header `X-CSRF-Token` in this session.

        If the service asks for no API key, the cookie is empty and the token has no effect.
        """
        return self._sign("csrf", cookie)

    def is_csrf_token(self, token: str, cookie: str) -> bool:
        """Tell whether a token belongs to the session of a cookie."""
        return hmac.compare_digest(token.encode(), self.csrf_token(cookie).encode())

    def _sign(self, what: str, told: str) -> str:
        return hmac.new(self._secret, f"{what}:{told}".encode(), hashlib.sha256).hexdigest()


def end(session: Session, signed: Signed) -> None:
    """End a session in all processes. It may have ended before."""
    session.execute(delete(EndedSession).where(EndedSession.ends < now()))
    session.merge(EndedSession(id=signed.id, ends=datetime.fromtimestamp(signed.ends, UTC)))


def is_ended(session: Session, signed: Signed) -> bool:
    """Tell whether a session was signed out."""
    return session.get(EndedSession, signed.id) is not None
