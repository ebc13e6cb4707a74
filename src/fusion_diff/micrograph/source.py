"""Opening of a file such that its digest and its pixels come from the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fusion_diff.errors import MicrographError
from fusion_diff.home import at_home
from fusion_diff.micrograph.limits import refusal
from fusion_diff.micrograph.storage import copied
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE_FILE_BYTES = 2**25
"""Files up to this size (32 MiB) are read into memory; larger ones are copied to a temporary file."""


@dataclass(frozen=True)
class Source:
    """A private copy of a file's bytes, unaffected by later changes of the file.

    Attributes:
        path: the file.
        name: its name in error messages.
        size: its length in bytes.
        sha256: hexadecimal digest of its bytes.
        handle: the bytes, seekable: in memory if the file is small, else in an unnamed temporary file.
    """

    path: Path
    name: str = field(init=False)
    size: int
    sha256: str
    handle: BinaryIO

    def __post_init__(self) -> None:
        """Set the name to the path, with only printable characters."""
        object.__setattr__(self, "name", printable(self.path))

    def data(self) -> bytes | mmap.mmap:
        """Return all bytes, mapped into memory if the file is large."""
        if isinstance(self.handle, io.BytesIO):
            return self.handle.getvalue()
        return mmap.mmap(self.handle.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Read and hash a regular file.

    Args:
        path: the file; `~` stands for the home folder.

    Yields:
        Its bytes. The handle is closed on exit; memory maps of it stay valid.

    Raises:
        MicrographError: the file does not exist, is a folder or device, is empty, cannot be read, changed during
            reading, or there is no room for its copy.
    """
    try:
        location = Path(path)
    except TypeError as error:
        raise MicrographError(f"expected the path of a file, got {type(path).__name__}; {_cure(path)}") from error
    name = printable(location)
    try:
        location = at_home(location)
        with _open_regular(location, name) as file:
            source = _read(location, name, file)
    except MicrographError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, error, location) from error
    with source.handle:
        yield source


def _cure(content: object) -> str:
    if hasattr(content, "__array__") or hasattr(content, "__array_interface__"):
        return "make a micrograph of an image in memory with Micrograph.from_array(…)"
    if isinstance(content, bytes | bytearray | memoryview) or hasattr(content, "read"):
        return "save it to a file first, and pass the file's path as a string or a Path"
    return "pass a string or a Path"


def _unreadable(name: str, error: Exception, location: Path) -> MicrographError:
    if isinstance(error, FileNotFoundError):
        if location.is_symlink():
            return refusal(name, "this is a link whose target does not exist", "restore the target or remove the link")
        return refusal(name, "there is no such file", "check the path")
    reason = (
        error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    )  # str: a zero byte in the path
    return refusal(name, f"the file cannot be read ({reason})", "check the path and its permissions")


def _open_regular(location: Path, name: str) -> BinaryIO:
    mode = location.stat().st_mode  # checked first: opening a pipe would wait for its writer
    if stat.S_ISDIR(mode):
        raise refusal(name, "this is a folder, not an image", "give a file in it, or read the folder as references")
    if not stat.S_ISREG(mode):
        raise refusal(name, "this is a device or a pipe, not a file", "save the image to a file first")
    return location.open("rb")


def _read(location: Path, name: str, file: BinaryIO) -> Source:
    before = os.fstat(file.fileno())
    if before.st_size == 0:
        raise refusal(name, "the file is empty", "copy or export it again from the instrument")
    if before.st_size <= WHOLE_FILE_BYTES:
        content = file.read(before.st_size)
        handle: BinaryIO = io.BytesIO(content)
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        handle, sha256 = copied(file, before.st_size, f"a copy of {name}")
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        handle.close()
        raise refusal(name, "the file changed while it was being read", "wait until it is complete, then try again")
    return Source(location, before.st_size, sha256, handle)
