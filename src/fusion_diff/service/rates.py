"""The rate limit: a token bucket per caller, which refills in a minute."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CALLERS = 10_000
"""Number of callers remembered. The least recent one is forgotten first, and starts again with a full bucket."""
_IDS_SECONDS = 10.0
"""Shortest time between two readings of the ids of all keys."""
_LONGEST_ADDRESS = 100
_NO_ADDRESS = "unknown"


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


class KeyIds:
    """Remembers which key ids exist, so that a made-up id is told from a real one without a look-up of each."""

    def __init__(self) -> None:
        self._ids: frozenset[str] = frozenset()
        self._read_at = -math.inf

    async def include(self, key_id: str, read: Callable[[], Awaitable[frozenset[str]]]) -> bool:
        """Tell whether a key id exists.

        Args:
            key_id: the id.
            read: reads all ids from the database. It is called for an id that is not remembered, at most once in
                `_IDS_SECONDS`, however often this is asked.
        """
        if key_id not in self._ids and time.monotonic() - self._read_at >= _IDS_SECONDS:
            self._read_at = time.monotonic()  # before the wait, so that requests meanwhile do not read too
            self._ids = await read()
        return key_id in self._ids


def network(address: str) -> str:
    """Return the address by which a caller is counted: of IPv6 its /64, because one host may use any address of it.

    What is not an IP address has one name for all: a socket without addresses, or any text from a proxy's header.
    """
    try:
        found = ip_address(address[:_LONGEST_ADDRESS])
    except ValueError:
        return _NO_ADDRESS
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((int(found), 64), strict=False))
