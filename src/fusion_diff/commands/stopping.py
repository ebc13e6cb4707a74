"""Graceful stop on SIGTERM, so that finished work is kept."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMINATED = 143
"""Exit code after SIGTERM, as in shells."""


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@contextmanager
def heed_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does; clusters send it before they remove a machine.

    Raises:
        Terminated: SIGTERM was received.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
