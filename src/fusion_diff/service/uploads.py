"""Uploads: copied to files of limited size under generated names, and hashed while copying."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff import locks
from fusion_diff.errors import MicrographError, NoRoomError, machine_fault
from fusion_diff.printable import printable
from fusion_diff.service.problems import TooLargeError
from fusion_diff.service.tables import NAME_LENGTH

if TYPE_CHECKING:
    from typing import BinaryIO

    from fusion_diff.errors import FusionDiffError

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Upload:
    """A received file.

    Attributes:
        path: temporary path.
        name: the sender's name for it; shown, never opened.
        sha256: digest of its bytes.
        size: size in bytes.
    """

    path: Path
    name: str
    sha256: str
    size: int

    def discard(self) -> None:
        """Remove the file unless it was moved away."""
        self.path.unlink(missing_ok=True)


def shown_name(name: str | None) -> str:
    """Return the sender's name of a file, made printable."""
    return printable(name, NAME_LENGTH) if name else "unnamed"


def receive(stream: BinaryIO, name: str | None, folder: Path, limit: int) -> Upload:
    """Copy an upload into a folder.

    Args:
        stream: the bytes.
        name: the sender's name.
        folder: destination folder.
        limit: most bytes.

    Raises:
        TooLargeError: the upload is larger than `limit`.
        MicrographError: the upload is empty.
        OSError: the file cannot be written.
    """
    shown = shown_name(name)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", delete=False) as file:
        path = Path(file.name)
        try:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise TooLargeError(
                        f"{shown}: the file is larger than {limit} bytes; crop it or compress it losslessly"
                    )
                digest.update(chunk)
                file.write(chunk)
            if size == 0:
                raise MicrographError(f"{shown}: the file is empty; copy or export it again from the instrument")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return Upload(path, shown, digest.hexdigest(), size)


def claim(folder: Path) -> BinaryIO:
    """Make the upload folder, and remove files that killed processes left in it.

    Returns:
        An open lock file. Until it is closed, no other process that claims the folder removes files from it.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claimed = folder.with_suffix(".lock").open("ab")
    with suppress(OSError):  # the files may be those of another running process, or the disk has no locks
        locks.hold(claimed.fileno())
        for file in folder.glob("upload-*"):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        locks.share(claimed.fileno())
    return claimed


def renamed(error: Exception, path: Path, name: str) -> str:
    """Return the message of an error with the sender's name in place of the temporary path."""
    return str(error).replace(printable(path), name)


def raise_fault(error: FusionDiffError) -> None:
    """Raise the cause of an error about a received file if the cause is a fault of the service; else return.

    Raises:
        OSError: the disk, a share or the machine's limits are at fault, or the received file is gone.
        MemoryError: there is not enough memory.
    """
    fault = machine_fault(error, MemoryError, FileNotFoundError)
    if isinstance(fault, NoRoomError):  # a kind of MicrographError, which would be recorded as the file's
        fault = fault.__cause__ or OSError(errno.ENOSPC, str(fault))
    if fault is not None:
        raise fault
