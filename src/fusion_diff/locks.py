"""Locks on open files. The system releases them when the file is closed or the process ends."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if sys.platform == "win32":
    import errno
    import msvcrt
    import os
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator


def hold(file: int) -> None:
    """Lock an open file exclusively until it is closed.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if sys.platform == "win32":
        try:
            _lock_byte(file, msvcrt.LK_NBLCK)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def share(file: int) -> None:
    """Lock an open file together with others that share it, until it is closed. An exclusive lock becomes shared.

    Windows has no such call here: an exclusive lock stays exclusive, and without one nothing is locked.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def locked(file: int) -> Iterator[None]:
    """Wait for the exclusive lock on an open file, and hold it while the block runs."""
    if sys.platform == "win32":
        while True:
            try:
                _lock_byte(file, msvcrt.LK_LOCK)
                break
            except OSError as error:
                if error.errno != errno.EDEADLK:  # this one means: still locked after ten seconds
                    raise
    else:
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if sys.platform == "win32":
            _lock_byte(file, msvcrt.LK_UNLCK)
        else:
            fcntl.flock(file, fcntl.LOCK_UN)


if sys.platform == "win32":
    _LOCKED_BYTE = 2**31 - 2
    """Far beyond the content, because others can neither read nor write a locked byte; the largest offset possible."""

    def _lock_byte(file: int, mode: int) -> None:
        position = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, mode, 1)
        finally:
            os.lseek(file, position, os.SEEK_SET)
