"""Limits for concurrent requests that need much memory or disk. Others wait, in limited number and time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

from fusion_diff.service.problems import BusyError, StoppingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
UPLOADS = 8
"""Requests with files received at once. Each may fill the disk with the largest allowed request."""
DECODERS = 2
"""Micrographs decoded at once, in addition to those in the queue."""
WAITING = 64
"""Most requests that wait for a slot of one kind. Each holds a connection."""
PATIENCE_SECONDS = 120.0
"""Longest wait. A page shows many references, and reducing a large one takes seconds."""


class Slots:
    """The slots of a process. A waiting request holds no thread, so other requests are answered meanwhile."""

    def __init__(self) -> None:
        self._uploads, self._decoders = CapacityLimiter(UPLOADS), CapacityLimiter(DECODERS)
        self._connections: Collection[object] = ()
        self._most = 0

    def limit(self, connections: Collection[object], most: int) -> None:
        """Set the open connections of the process, and the number of them at which requests are refused."""
        self._connections, self._most = connections, most

    def check_connections(self) -> None:
        """Check that there are not too many open connections.

        Raises:
            StoppingError: there are.
        """
        if self._connections and len(self._connections) >= self._most:
            raise StoppingError("too many connections are open; close idle ones, or try again later", retry_after=10)

    def upload(self) -> AbstractAsyncContextManager[None]:
        """Hold a slot for receiving files during the block.

        Raises:
            BusyError: no slot becomes free in time, or too many requests wait.
        """
        return _slot(self._uploads, "too many uploads are being received")

    async def decode(self, work: Callable[[], T]) -> T:
        """Run a function that decodes a micrograph in a thread, holding a slot, and return its result.

        Raises:
            BusyError: no slot becomes free in time, or too many requests wait.
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
