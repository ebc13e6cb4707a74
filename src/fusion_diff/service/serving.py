"""The server: uvicorn, told to stop the queue before it waits for the answers to what was accepted.

Connections on which nothing is asked are closed, and there is an end to their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fusion_diff.service.app import create_app
from fusion_diff.service.queue import LAST_SECONDS

if TYPE_CHECKING:
    import asyncio
    import socket

    from fusion_diff.service.runtime import Service

_ANSWERING_SECONDS = LAST_SECONDS + 3
"""How much longer than the queue the answers may take, before their connections are cut."""
ASKING_SECONDS = 30.0
"""How long a client may take to ask for something, its headers included, once it is connected or was answered."""
_OTHERS = 256
"""Connections beside those that may wait for a verdict."""


class Connection(H11Protocol):
    """A connection that is closed when nothing is asked on it: uvicorn by itself waits for ever for half a header."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, and for what is left of a body that was refused."""
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(ASKING_SECONDS, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """Serves what was opened until the process is told to end."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        config = uvicorn.Config(
            create_app(settings, service),
            host=settings.host,
            port=settings.port,
            http=Connection,
            limit_concurrency=settings.queue_length + _OTHERS,
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_seconds + _ANSWERING_SECONDS,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, answer what was accepted, and close."""
        self._service.stop()
        await super().shutdown(sockets)
