"""File access for trust: plain files only, reads of bounded size, and writes that never overwrite."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fusion_diff.errors import TrustError
from fusion_diff.home import left_by_file_manager
from fusion_diff.printable import printable
from fusion_diff.whole import naming

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_CHUNK_BYTES = 2**20
_MAX_LINKS = 40  # as many as Linux follows
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def open_plain(file: Path) -> Iterator[BinaryIO]:
    """Open a plain file for reading; refuse links, folders, pipes and devices.

    Raises:
        TrustError: it is missing, not a plain file, or not readable.
    """
    try:
        stream = open(file, "rb", opener=lambda name, flags: os.open(name, flags | _PLAIN))  # noqa: SIM115
    except (OSError, ValueError) as error:
        if os.path.islink(file):  # noqa: PTH114 (Path.is_symlink raises where the name is too long)
            message = f"{printable(file)}: it is a symbolic link, which is not followed; put the file itself there"
            raise TrustError(message) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrustError(f"{printable(file)}: cannot be read ({reason}); check the path and its permissions") from error
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise TrustError(f"{printable(file)}: it is a folder, pipe or device, not a plain file; name a file")
        yield stream


def followed(file: Path) -> Path:
    """Return what a symbolic link leads to, or the file itself. Keys, and statements about them, may be links.

    Raises:
        TrustError: as `hops`.
    """
    return hops(file)[-1]


def hops(file: Path) -> list[Path]:
    """Return a file, and what it leads to link by link where it is a symbolic link.

    Raises:
        TrustError: it leads back to itself, or through too many links.
    """
    found = [file]
    while os.path.islink(found[-1]):  # noqa: PTH114 (Path.is_symlink raises where the name is too long)
        if len(found) > _MAX_LINKS:
            raise TrustError(
                f"{printable(file)}: it is a symbolic link that leads back to itself, or through more than "
                f"{_MAX_LINKS} others; put the file itself there"
            )
        found.append(found[-1].parent / found[-1].readlink())
    return found


def expect_ledger(path: Path, status: os.stat_result) -> None:
    """Check that a ledger is a file, given its status: a pipe is waited for, and a device may never end.

    Raises:
        TrustError: it is not.
    """
    if not stat.S_ISREG(status.st_mode):
        raise TrustError(f"{printable(path)}: it is a folder, device or pipe, which keeps no ledger; name a file")


def read_bounded(file: Path, limit: int, what: str) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes; `what` names its kind in errors.

    Raises:
        TrustError: it cannot be read, or is larger.
    """
    with open_plain(file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise TrustError(f"{printable(file)}: it is larger than {limit} bytes, too large for a {what}; check the path")
    return content


def digest_plain(file: Path, copy: BinaryIO | None = None) -> str:
    """Return the hexadecimal sha256 of a plain file's bytes, and write the same bytes to `copy` where it is given.

    Raises:
        TrustError: it is not a plain file, or cannot be read.
        OSError: the copy cannot be written.
    """
    sha256 = hashlib.sha256()
    with open_plain(file) as stream:
        while chunk := _chunk(stream, file):
            sha256.update(chunk)
            if copy is not None:
                copy.write(chunk)
    return sha256.hexdigest()


def _chunk(stream: BinaryIO, file: Path) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except OSError as error:
        raise TrustError(f"{printable(file)}: cannot be read ({error.strerror}); check the disk") from error


def walk(
    folder: Path, ignored: Collection[str] = (), listed: Collection[str] = ()
) -> tuple[dict[str, Path], dict[str, str]]:
    """List a folder recursively, without following links, and without what file managers leave in it.

    Args:
        folder: the folder.
        ignored: names to leave out with all below them, relative to the folder and with `/`.
        listed: names of files that are listed though a file manager may have left them.

    Returns:
        Plain files by relative name; and for each link, pipe or device, its kind by relative name.

    Raises:
        TrustError: a folder cannot be read.
    """
    files: dict[str, Path] = {}
    odd: dict[str, str] = {}
    todo = [("", folder)]
    while todo:
        prefix, parent = todo.pop()
        try:
            entries = list(os.scandir(parent))
        except OSError as error:
            raise TrustError(
                f"{printable(parent)}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        for entry in entries:
            name = prefix + entry.name
            if name in ignored:
                continue
            if entry.is_symlink():
                odd[name] = "a symbolic link"
            elif entry.is_dir(follow_symlinks=False):
                todo.append((name + "/", Path(entry.path)))
            elif entry.is_file(follow_symlinks=False):
                if name in listed or not left_by_file_manager(Path(entry.path)):
                    files[name] = Path(entry.path)
            else:
                odd[name] = "a pipe or device"
    return files, odd


def write_new(file: Path, content: bytes, mode: int) -> None:
    """Write a new file, created with its final permissions.

    Raises:
        TrustError: something of that name exists, even a broken link.
        OSError: it cannot be written; the error names it, and no part of it is left.
    """
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    except FileExistsError as error:
        raise TrustError(f"{printable(file)}: it exists already and is not overwritten; choose another name") from error
    try:
        with naming(file), os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
