"""Slots: how many requests may hold much memory or disk at once; others wait, but not many and not for ever."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

from fusion_diff.service.problems import BusyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
UPLOADS = 8
"""Requests with files that are being received at once; each fills as much of the disk as a request may have bytes."""
DECODERS = 2
"""Micrographs that are decoded at once, beside those in the queue."""
WAITING = 64
"""Requests that may wait for a slot of one kind; each holds a connection."""
PATIENCE_SECONDS = 120.0
"""How long to wait: a page shows many references, and reducing a large one takes seconds."""


class Slots:
    """The slots of a process. Whoever waits for one holds no thread, so that other requests are answered meanwhile."""

    def __init__(self) -> None:
        self._uploads, self._decoders = CapacityLimiter(UPLOADS), CapacityLimiter(DECODERS)

    def upload(self) -> AbstractAsyncContextManager[None]:
        """Give a slot for receiving files, as long as the block lasts.

        Raises:
            BusyError: none becomes free in time, or too many wait.
        """
        return _slot(self._uploads, "too many uploads are being received")

    async def decode(self, work: Callable[[], T]) -> T:
        """Return what a function returns that decodes a micrograph, in a thread.

        Raises:
            BusyError: no slot becomes free in time, or too many wait for one.
        """
        async with _slot(self._decoders, "too many micrographs are being decoded"):
            return await to_thread.run_sync(work)


@asynccontextmanager
async def _slot(limiter: CapacityLimiter, otherwise: str) -> AsyncIterator[None]:
    holder = object()
    busy = BusyError(f"{otherwise}; try again in a moment", retry_after=10)
    if limiter.statistics().tasks_waiting >= WAITING:
        raise busy
    try:
        with fail_after(PATIENCE_SECONDS):
            await limiter.acquire_on_behalf_of(holder)
    except TimeoutError:
        raise busy from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(holder)
