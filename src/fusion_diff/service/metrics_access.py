"""Access to the metrics while the database, which holds the keys, does not answer."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread
from sqlalchemy.exc import SQLAlchemyError

from fusion_diff.service.problems import UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.service.keys import Caller

T = TypeVar("T")
PATH = "/metrics"
"""The only path that remembered keys may read: it gives figures, and no data of micrographs."""
PATIENCE_SECONDS = 2.0
"""Longest wait for the database."""
_KNOWN_SECONDS = 3600.0
_threads = CapacityLimiter(8)
"""Separate threads, because all others may be waiting for the database."""


async def in_time(ask: Callable[[], T]) -> T:
    """Run a function in a separate thread, and return its result.

    Raises:
        TimeoutError: it takes longer than `PATIENCE_SECONDS`.
    """
    with fail_after(PATIENCE_SECONDS):
        return await to_thread.run_sync(ask, abandon_on_cancel=True, limiter=_threads)


class Watchers:
    """Remembers for an hour which API keys read the metrics, in case the database does not answer the next time.

    A revoked key is forgotten once the database answers; revoking a key needs the database too.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Caller, float]] = {}

    async def caller(self, authorization: str, ask: Callable[[], Caller | None]) -> Caller | None:
        """Return the caller of the metrics; None if no key or session is given.

        Args:
            authorization: the header with the key.
            ask: looks the caller up in the database.

        Raises:
            UnauthorizedError: the key is not valid.
            UnavailableError: the database does not answer in time, and the key is not remembered.
            sqlalchemy.exc.SQLAlchemyError: the database reports an error, and the key is not remembered.
        """
        # One entry for each key, however its header is spaced and its scheme is written.
        key = hashlib.sha256(authorization.partition(" ")[2].strip().encode()).digest()
        try:
            found = await in_time(ask)
        except UnauthorizedError:
            self._known.pop(key, None)
            raise
        except (SQLAlchemyError, TimeoutError) as error:
            known, at = self._known.get(key, (None, 0.0))
            if known is not None and time.monotonic() - at < _KNOWN_SECONDS:
                return known
            if isinstance(error, SQLAlchemyError):
                raise
            raise UnavailableError("the database does not answer; try again later", retry_after=5) from None
        if authorization and found is not None:
            self._known[key] = (found, time.monotonic())
        return found
