"""Who watches over the service: known for a while when the records, which know every key, do not answer."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread
from sqlalchemy.exc import SQLAlchemyError

from fusion_diff.service.problems import StoppingError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.service.keys import Caller

T = TypeVar("T")
PATH = "/metrics"
"""All that is told to who was known a while ago: figures, and nothing of a micrograph."""
_PATIENCE_SECONDS = 2.0
_KNOWN_SECONDS = 3600.0
_threads = CapacityLimiter(8)
"""Of their own: those of other requests may all be waiting for the records."""


async def in_time(ask: Callable[[], T], seconds: float = _PATIENCE_SECONDS) -> T:
    """Return what a function returns in a thread of its own, if it does so soon.

    Raises:
        TimeoutError: it does not.
    """
    with fail_after(seconds):
        return await to_thread.run_sync(ask, abandon_on_cancel=True, limiter=_threads)


class Watchers:
    """Remembers who asked for the metrics by API key, in case the records do not answer the next time.

    A key that was revoked is forgotten as soon as the records say so; they have to answer for it to be revoked.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Caller, float]] = {}

    async def caller(
        self, authorization: str, ask: Callable[[], Caller | None], seconds: float = _PATIENCE_SECONDS
    ) -> Caller | None:
        """Return who asks for the metrics; None where no key or session is given.

        Args:
            authorization: the header with the key.
            ask: looks into the records.
            seconds: how long to wait for these.

        Raises:
            UnauthorizedError: the key is not valid.
            StoppingError: the records do not answer in time, and the key was not known lately.
            sqlalchemy.exc.SQLAlchemyError: the same, as they say why.
        """
        key = hashlib.sha256(authorization.encode()).digest()
        try:
            found = await in_time(ask, seconds)
        except UnauthorizedError:
            self._known.pop(key, None)
            raise
        except (SQLAlchemyError, TimeoutError) as error:
            known, at = self._known.get(key, (None, 0.0))
            if known is not None and time.monotonic() - at < _KNOWN_SECONDS:
                return known
            if isinstance(error, SQLAlchemyError):
                raise
            raise StoppingError("the records do not answer; try again later", retry_after=5) from None
        if authorization and found is not None:
            self._known[key] = (found, time.monotonic())
        return found
