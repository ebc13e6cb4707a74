"""The uvicorn server. On shutdown it stops the queue first, then waits for the answers to accepted requests.

Idle connections are closed, and their number is limited.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fusion_diff.service.app import create_app
from fusion_diff.service.queue import LAST_SECONDS

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from fusion_diff.service.runtime import Service

_ANSWERING_SECONDS = LAST_SECONDS + 3
"""Seconds after the stop deadline of the queue at which open connections are cut."""
ASKING_SECONDS = 30.0
"""Seconds within which a client has to send a request with its headers after connecting."""
IDLE_SECONDS = 75
"""The same after an answer. Longer than proxies keep a connection that they may use again, most of them 60 seconds."""
_OTHERS = 256
"""Connections in addition to those that may wait for a verdict."""
_ENDING_SECONDS = 1.0
"""Time for threads to end after the shutdown."""


class Connection(H11Protocol):
    """A connection that is closed when idle. uvicorn itself waits without limit for an incomplete header."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._wait(ASKING_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the timer for the next request, or for the rest of a refused body."""
        super().on_response_complete()
        self._wait(IDLE_SECONDS)

    def _wait(self, seconds: float) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(seconds, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """Serves an opened service until the process is told to end.

    Args:
        service: the opened service.
        listening: is called with the port, once connections are accepted.
    """

    def __init__(self, service: Service, listening: Callable[[int], None] = lambda _: None) -> None:
        self._service = service
        self.listening = listening
        settings = service.settings
        config = uvicorn.Config(
            create_app(settings, service),
            host=settings.host,
            port=settings.port,
            http=Connection,
            timeout_keep_alive=IDLE_SECONDS,
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_seconds + _ANSWERING_SECONDS,
        )
        super().__init__(config)
        # uvicorn's own limit refuses probes too, so the process would be restarted with all that it accepted.
        service.slots.limit(self.server_state.connections, settings.queue_length + _OTHERS)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, and return once SIGTERM has ended it. The process dies by that signal if something hangs instead."""
        if threading.current_thread() is not threading.main_thread():  # no other may set handlers
            super().run(sockets)
            return
        before = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            super().run(sockets)
            if _threads_hang():
                _die()
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def _on_sigterm(self, *_: object) -> None:
        """Hear SIGTERM before uvicorn does, and when uvicorn raises it again after its shutdown."""
        self.should_exit = True
        if self.started and self.server_state.tasks:  # asyncio would wait for them for ever
            _die()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind the port, and say so."""
        await super().startup(sockets)
        if self.started:
            self.listening(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, answer accepted requests, and close."""
        self._service.stop()
        await super().shutdown(sockets)


def _threads_hang() -> bool:
    """Tell whether threads go on, for which Python would wait, or which compute and would crash at its end."""
    until = time.monotonic() + _ENDING_SECONDS
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    waited = [each for each in others if not each.daemon or each.name.startswith("fusion-diff-")]
    for each in waited:
        each.join(max(0.0, until - time.monotonic()))
    return any(each.is_alive() for each in waited)


def _die() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    os._exit(128 + signal.SIGTERM)  # the first process of a container does not die of its own signal
