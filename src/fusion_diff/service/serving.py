"""The server: uvicorn, told to stop the queue before it waits for the answers to what was accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn

from fusion_diff.service.app import create_app
from fusion_diff.service.queue import LAST_SECONDS

if TYPE_CHECKING:
    import socket

    from fusion_diff.service.runtime import Service

_ANSWERING_SECONDS = LAST_SECONDS + 3
"""How much longer than the queue the answers may take, before their connections are cut."""


class Server(uvicorn.Server):
    """Serves what was opened until the process is told to end."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        config = uvicorn.Config(
            create_app(settings, service),
            host=settings.host,
            port=settings.port,
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
