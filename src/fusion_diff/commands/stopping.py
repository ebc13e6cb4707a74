"""Being told to stop from outside: what is done is kept then too."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMINATED = 143
"""Exit code of a command that SIGTERM stopped, as shells have it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def heed_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: clusters send it before they take a machine away.

    Raises:
        Terminated: it came.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb what keeps the work
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
