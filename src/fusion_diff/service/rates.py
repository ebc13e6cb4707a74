"""The rate limit: a bucket of tokens for each caller, which fills up again over a minute."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock

_CALLERS = 10_000
"""Callers remembered; the one that has been away longest is forgotten first, and would start with a full bucket."""


class RateLimit:
    """Lets a caller make so many requests a minute, all at once if it likes."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def wait(self, caller: str, at: float | None = None) -> float:
        """Take a token and return 0, or the seconds until there is one.

        Args:
            caller: whose bucket.
            at: the time, in seconds on a clock that never goes back; now when omitted.
        """
        at = time.monotonic() if at is None else at
        with self._lock:
            tokens, since = self._buckets.pop(caller, (self._most, at))
            tokens = min(self._most, tokens + (at - since) * self._most / 60)
            allowed = tokens >= 1
            self._buckets[caller] = (tokens - 1 if allowed else tokens, at)
            if len(self._buckets) > _CALLERS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) * 60 / self._most
