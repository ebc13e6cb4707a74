"""Sessions of browsers: a signed cookie that names an API key and ends by itself, and tokens against forged requests.

The cookie holds no key. It is good until it is signed out, which the records keep for as long as it would have lasted,
or until the key it names is revoked.
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
    """What a cookie says.

    Attributes:
        key_id: of the API key that signed in.
        id: of the session.
        ends: when it ends by itself, in seconds since 1970.
    """

    key_id: str
    id: str
    ends: int


class Sessions:
    """Signs and checks cookies with a secret that stays here."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def begin(self, key_id: str, at: float | None = None) -> str:
        """Return the cookie of a new session of the caller with this key."""
        ends = int((time.time() if at is None else at) + LASTS_SECONDS)
        told = f"{key_id}.{new_id()}.{ends}"
        return f"{told}.{self._sign('session', told)}"

    def read(self, cookie: str, at: float | None = None) -> Signed | None:
        """Return what a cookie says; None where it was not signed here or has ended by itself."""
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", told).encode()):
            return None
        key_id, *rest = told.split(".")
        if len(rest) != 2:  # as earlier versions signed them: without an id of their own
            return None
        signed = Signed(key_id, rest[0], int(rest[1]))
        return signed if signed.ends > (time.time() if at is None else at) else None

    def csrf_token(self, cookie: str) -> str:
        """Return the token that a page puts into the header `X-CSRF-Token` of what it sends in this session.

        Without a session, where no API key is asked for, the cookie is empty; the token is then of no use and no harm.
        """
        return self._sign("csrf", cookie)

    def is_csrf_token(self, token: str, cookie: str) -> bool:
        """Tell whether a token belongs to a session."""
        return hmac.compare_digest(token.encode(), self.csrf_token(cookie).encode())

    def _sign(self, what: str, told: str) -> str:
        return hmac.new(self._secret, f"{what}:{told}".encode(), hashlib.sha256).hexdigest()


def end(session: Session, signed: Signed) -> None:
    """Let a session allow nothing from now on, whichever process is asked; it may have been ended before."""
    session.execute(delete(EndedSession).where(EndedSession.ends < now()))
    session.merge(EndedSession(id=signed.id, ends=datetime.fromtimestamp(signed.ends, UTC)))


def is_ended(session: Session, signed: Signed) -> bool:
    """Tell whether a session was signed out."""
    return session.get(EndedSession, signed.id) is not None
