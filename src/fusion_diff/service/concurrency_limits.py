"""Limits for concurrent requests that need much memory or disk. Others wait, in limited number and time."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from anyio import Event, move_on_after, to_thread

from fusion_diff.service.problems import BusyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
UPLOADS = 8
"""Requests with files received at once. Each may fill the disk with the largest allowed request.

A body may come slowly for days, so a caller gets no more of them than remain free for others: of 8 slots the first 4,
a second 2, a third and a fourth 1 each.
"""
DECODERS = 2
"""Micrographs decoded at once, in addition to those in the queue."""
WAITING = 64
"""Most requests of a caller that wait for a slot of one kind. Each holds a connection."""
PATIENCE_SECONDS = 120.0
"""Longest wait. A page shows many references, and reducing a large one takes seconds."""


class Slots:
    """The slots of a process. A waiting request holds no thread, so other requests are answered meanwhile."""

    def __init__(self) -> None:
        self._uploads = _Kind(UPLOADS, "too many uploads are being received", shared=True)
        self._decoders = _Kind(DECODERS, "too many micrographs are being decoded", shared=False)
        self._connections: Collection[object] = ()
        self._most = 0

    def limit(self, connections: Collection[object], most: int) -> None:
        """Set the open connections of the process, and the number of them at which requests are refused."""
        self._connections, self._most = connections, most

    def check_connections(self) -> None:
        """Check that there are not too many open connections.

        Raises:
            UnavailableError: there are.
        """
        if self._connections and len(self._connections) >= self._most:
            raise UnavailableError("too many connections are open; close idle ones, or try again later", retry_after=10)

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
    """The slots of one kind. A free one goes to who holds the fewest, and of those to who came first."""

    def __init__(self, slots: int, otherwise: str, *, shared: bool) -> None:
        """Begin with all slots free.

        Args:
            slots: their number.
            otherwise: what is said to whom no slot becomes free in time.
            shared: whether a caller gets no more than remain free, so that it takes four to take all.
        """
        self.free = slots
        self.held: Counter[str] = Counter()
        self.waiting: dict[Event, str] = {}
        self._otherwise = otherwise
        self._shared = shared

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        busy = BusyError(f"{self._otherwise}; try again in a moment", retry_after=10)
        if sum(each == caller for each in self.waiting.values()) >= WAITING:
            raise busy
        turn = Event()
        self.waiting[turn] = caller
        self._give()
        try:
            with move_on_after(PATIENCE_SECONDS):
                await turn.wait()
            if not turn.is_set():
                raise busy
            yield
        finally:
            if self.waiting.pop(turn, None) is None:  # it had its turn
                self.free += 1
                self.held[caller] -= 1
                self._give()

    def _give(self) -> None:
        while self.free and self.waiting:
            turn = min(self.waiting, key=lambda each: self.held[self.waiting[each]])
            if self._shared and self.held[self.waiting[turn]] >= self.free:
                return
            self.free -= 1
            self.held[self.waiting.pop(turn)] += 1
            turn.set()
