"""Limits for concurrent requests that need much memory or disk. Others wait, in limited number and time."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

from fusion_diff.service.problems import BusyError, StoppingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
UPLOADS = 8
"""Requests with files received at once. Each may fill the disk with the largest allowed request."""
UPLOADS_OF_ONE = 4
"""Those of one caller. A body may come slowly for days, so one caller must leave room for others."""
DECODERS = 2
"""Micrographs decoded at once, in addition to those in the queue."""
WAITING = 64
"""Most requests of a caller that wait for a slot of one kind. Each holds a connection."""
PATIENCE_SECONDS = 120.0
"""Longest wait. A page shows many references, and reducing a large one takes seconds."""


class Slots:
    """The slots of a process. A waiting request holds no thread, so other requests are answered meanwhile."""

    def __init__(self) -> None:
        self._uploads = _Kind(UPLOADS, UPLOADS_OF_ONE, "too many uploads are being received")
        self._decoders = _Kind(DECODERS, DECODERS, "too many micrographs are being decoded")
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

    def upload(self, caller: str) -> AbstractAsyncContextManager[None]:
        """Hold a slot for receiving files of a caller during the block.

        Raises:
            BusyError: no slot becomes free in time, or too many requests of the caller wait.
        """
        return self._uploads.slot(caller)

    async def decode(self, caller: str, work: Callable[[], T]) -> T:
        """Run a function that decodes a micrograph for a caller in a thread, holding a slot, and return its result.

        Raises:
            BusyError: no slot becomes free in time, or too many requests of the caller wait.
        """
        async with self._decoders.slot(caller):
            return await to_thread.run_sync(work)


class _Kind:
    """The slots of one kind. Each caller waits in a line of its own, so that nobody waits behind all of another's."""

    def __init__(self, slots: int, of_one: int, otherwise: str) -> None:
        self.all = CapacityLimiter(slots)
        self.own: defaultdict[str, CapacityLimiter] = defaultdict(lambda: CapacityLimiter(of_one))
        self._otherwise = otherwise

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        own, holder = self.own[caller], object()
        busy = BusyError(f"{self._otherwise}; try again in a moment", retry_after=10)
        if own.statistics().tasks_waiting >= WAITING:
            raise busy
        async with AsyncExitStack() as held:
            try:
                with fail_after(PATIENCE_SECONDS):
                    for limiter in (own, self.all):
                        await limiter.acquire_on_behalf_of(holder)
                        held.callback(limiter.release_on_behalf_of, holder)
            except TimeoutError:
                raise busy from None
            yield
