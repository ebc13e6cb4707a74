"""The rate limit: a token bucket per caller, which refills in a minute."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock

_CALLERS = 10_000
"""Number of callers remembered. The least recent one is forgotten first, and starts again with a full bucket."""


class RateLimit:
    """Allows each caller a number of requests per minute; they may come all at once."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def wait(self, caller: str, at: float | None = None) -> float:
        """Take a token and return 0, or return the seconds until one is free.

        Args:
            caller: owner of the bucket.
            at: time in seconds on a monotonic clock; now if omitted.
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
