"""Sessions of browsers: a signed cookie that names an API key and ends by itself, and tokens against forged requests.

The cookie holds no key. It is good for as long as the key it names is not revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import time

COOKIE = "fusion_diff_session"
CSRF_HEADER = "x-csrf-token"
SECRET_BYTES = 32
LASTS_SECONDS = 12 * 3600


class Sessions:
    """Signs and checks cookies with a secret that stays here."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def begin(self, key_id: str, at: float | None = None) -> str:
        """Return the cookie of a new session of the caller with this key."""
        ends = int((time.time() if at is None else at) + LASTS_SECONDS)
        told = f"{key_id}.{ends}"
        return f"{told}.{self._sign('session', told)}"

    def key_id(self, cookie: str, at: float | None = None) -> str | None:
        """Return the id of the key that a cookie names; None where it was not signed here or has ended."""
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", told).encode()):
            return None
        key_id, _, ends = told.partition(".")
        return key_id if int(ends) > (time.time() if at is None else at) else None

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
