"""Locks on open files; where the system has none, as on Windows, nothing is locked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator


def hold(file: int) -> None:
    """Lock an open file until it is closed, which the system sees to however the process ends.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def share(file: int) -> None:
    """Lock an open file, beside others that share it, until it is closed; what was held alone is shared from now on."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def locked(file: int) -> Iterator[None]:
    """Lock an open file while the block runs, after waiting for whoever holds the lock."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)
