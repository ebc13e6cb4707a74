"""The rate limit: a token bucket per caller, which refills in a minute."""

from __future__ import annotations

import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
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

    def give_back(self, caller: str) -> None:
        """Give a token back that was taken on behalf of another caller."""
        with self._lock:
            if caller in self._buckets:
                tokens, since = self._buckets[caller]
                self._buckets[caller] = (min(self._most, tokens + 1), since)


class Owners:
    """Remembers whose credentials were valid the last time, so that their owner's limit holds before any look-up.

    Only valid credentials are remembered, as digests.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def get(self, credential: bytes) -> str | None:
        """Return the owner; None if the credential is not remembered."""
        if credential in self._known:
            self._known.move_to_end(credential)
        return self._known.get(credential)

    def remember(self, credential: bytes, owner: str) -> None:
        """Remember the owner of a valid credential."""
        self._known[credential] = owner
        if len(self._known) > _CALLERS:
            self._known.popitem(last=False)

    def forget(self, credential: bytes) -> None:
        """Forget a credential that is no longer valid, or never was."""
        self._known.pop(credential, None)


def network(address: str) -> str:
    """Return the address by which a caller is counted: of IPv6 its /64, because one host may use any address of it."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket without addresses
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or ip_network((int(found), 64), strict=False))
