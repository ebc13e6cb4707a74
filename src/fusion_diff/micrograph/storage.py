"""Storage of decoded pixels: in memory, or in a memory-mapped temporary file for large images."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import mmap
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from fusion_diff.errors import NoRoomError, disk_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import DTypeLike, NDArray

IN_MEMORY_BYTES = 2**26
"""Size in bytes (64 MiB) above which decoded images are stored in a temporary file."""

BAND_PIXELS = 2**22
"""Approximate number of values in the bands of rows that passes over an image work on."""

_SAMPLED_ROWS = 32
_CHUNK_BYTES = 2**22


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a zeroed array to decode into. Large arrays are backed by an unnamed temporary file.

    Raises:
        NoRoomError: the temporary folder lacks the space, or cannot be used.
    """
    dtype = np.dtype(dtype)
    if math.prod(shape) * dtype.itemsize <= IN_MEMORY_BYTES:
        return np.zeros(shape, dtype)
    return _in_file(shape, dtype)


def spilled(levels: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of `levels` in an unnamed temporary file; `levels` itself if a file is behind it already.

    Raises:
        NoRoomError: the temporary folder lacks the space, or cannot be used.
    """
    if file_behind(levels) is not None:
        return levels
    out = _in_file(levels.shape, levels.dtype)
    for rows in bands(levels.shape):
        out[rows] = levels[rows]
    release(out)
    return out


def _in_file(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    with _room(size, "decoded pixels"), _reserved(size) as file:
        return np.memmap(file, dtype, mode="r+", shape=shape)


def copied(file: BinaryIO, size: int, content: str) -> tuple[BinaryIO, str]:
    """Copy the next `size` bytes of a file, or fewer if it ends, to an unnamed temporary file.

    Args:
        file: the file.
        size: number of bytes.
        content: name of the content in error messages.

    Returns:
        The temporary file, and the sha256 of the bytes in hexadecimal.

    Raises:
        NoRoomError: the temporary folder lacks the space, or cannot be used.
        OSError: the file cannot be read.
    """
    with _room(size, content):
        copy = _reserved(size)
    digest = hashlib.sha256()
    try:
        while chunk := file.read(min(size - copy.tell(), _CHUNK_BYTES)):
            digest.update(chunk)
            with _room(size, content):  # not every system can reserve the space beforehand
                copy.write(chunk)
                copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy, digest.hexdigest()


@contextlib.contextmanager
def _room(size: int, content: str) -> Iterator[None]:
    """Convert an OSError to a NoRoomError that names the content, the cause and the cure."""
    try:
        yield
    except OSError as error:
        what = f"{size:,} bytes of {content} in {_temporary_folder()} ({error})"
        if disk_full(error):
            told = f"no room for {what}; free space there, or set TMPDIR to a folder on a larger disk"
        else:
            told = f"cannot store {what}; make sure that the folder can be written to, or set TMPDIR to another one"
        raise NoRoomError(told) from error


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # no folder can be written to
        return "the temporary folder"


def _reserved(size: int) -> BinaryIO:
    file = cast("BinaryIO", tempfile.TemporaryFile(prefix="fusion-diff-"))  # noqa: SIM115 (handed on open)
    try:
        _reserve(file, size)
    except OSError:
        file.close()
        raise
    return file


def _reserve(file: BinaryIO, size: int) -> None:
    # Writing through a map into a hole on a full disk kills the process, so the space is reserved beforehand.
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    file.truncate(size)


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows that cover an image of `shape` in bands of about `BAND_PIXELS` values."""
    step = max(1, BAND_PIXELS // max(1, math.prod(shape[1:])))
    for top in range(0, shape[0], step):
        yield slice(top, min(top + step, shape[0]))


def mapped(levels: NDArray[Any], function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Apply `function` to `levels` band by band. It must keep the number of rows."""
    out: NDArray[Any] | None = None
    for rows in bands(levels.shape):
        band = function(levels[rows])
        if out is None:
            out = allocate((levels.shape[0], *band.shape[1:]), band.dtype)
        out[rows] = band
        release(levels)
    assert out is not None  # an image has rows
    return out


def sampled(levels: NDArray[Any], step: int) -> NDArray[Any]:
    """Return every `step`-th row and column of an image, in its dtype, keeping few pages of a mapped file resident."""
    heights = range(0, levels.shape[0], step)
    out = np.empty((len(heights), len(range(0, levels.shape[1], step)), *levels.shape[2:]), levels.dtype)
    for start in range(0, len(heights), _SAMPLED_ROWS):
        stop = min(start + _SAMPLED_ROWS, len(heights))
        out[start:stop] = levels[start * step : stop * step : step, ::step]
        release(levels)  # the system loads many pages around each row
    return out


def release(levels: NDArray[Any]) -> None:
    """Release the pages of a memory-mapped array. The next access reads them from the file again.

    Arrays in memory are unaffected. Without this, a pass over a large map would count as memory of this process.
    """
    mapped_file = file_behind(levels)
    if mapped_file is not None and sys.platform != "win32":  # which has no such call
        with contextlib.suppress(AttributeError, OSError, ValueError):  # nor have some others
            mapped_file.madvise(mmap.MADV_DONTNEED)


def file_behind(levels: NDArray[Any]) -> mmap.mmap | None:
    """Return the memory map behind an array; None if the array is in memory."""
    base: Any = levels
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def share_below(plane: NDArray[Any], level: float) -> float:
    """Return the share of a plane's values below a level, counted band by band."""
    return sum(int((plane[rows] < level).sum()) for rows in bands(plane.shape)) / plane.size
