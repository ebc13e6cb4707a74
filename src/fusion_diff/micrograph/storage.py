"""Where decoded pixels live: in memory when small, in a temporary file mapped into memory when large."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from fusion_diff.errors import MicrographError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import DTypeLike, NDArray

IN_MEMORY_PIXELS = 2**26
"""Decoded images of more values than this (64 million) go to a temporary file."""

BAND_PIXELS = 2**22
"""Whole-image passes work on bands of rows of about this many values."""


_SAMPLED_ROWS = 32


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a zeroed array to decode into; large ones are backed by an unnamed temporary file.

    Raises:
        MicrographError: the temporary folder lacks the space.
    """
    dtype = np.dtype(dtype)
    if math.prod(shape) <= IN_MEMORY_PIXELS:
        return np.zeros(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    with _room(size, "decoded pixels"), _reserved(size) as file:
        return np.memmap(file, dtype, mode="r+", shape=shape)


def temporary(size: int, content: str) -> BinaryIO:
    """Return an unnamed temporary file of `size` bytes, whose space is taken.

    Args:
        size: its length.
        content: what it is for, as an error calls it.

    Raises:
        MicrographError: the temporary folder lacks the space.
    """
    with _room(size, content):
        return _reserved(size)


@contextlib.contextmanager
def _room(size: int, content: str) -> Iterator[None]:
    """Say what there was no room for, and the cure."""
    try:
        yield
    except OSError as error:
        raise MicrographError(
            f"no room for {size:,} bytes of {content} in {tempfile.gettempdir()} ({error}); "
            "free space there, or set TMPDIR to a folder on a larger disk"
        ) from error


def _reserved(size: int) -> BinaryIO:
    file = cast("BinaryIO", tempfile.TemporaryFile(prefix="fusion-diff-"))  # noqa: SIM115 (handed on open)
    try:
        _reserve(file, size)
    except OSError:
        file.close()
        raise
    return file


def _reserve(file: BinaryIO, size: int) -> None:
    # Writing through a map into a hole on a full disk kills the process, so the space is taken beforehand.
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
    """Return `function` applied to `levels` band by band; it must keep the number of rows."""
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
    """Return every `step`-th row and column of an image, in its dtype, touching little of a mapped file at a time."""
    heights = range(0, levels.shape[0], step)
    out = np.empty((len(heights), len(range(0, levels.shape[1], step)), *levels.shape[2:]), levels.dtype)
    for start in range(0, len(heights), _SAMPLED_ROWS):
        stop = min(start + _SAMPLED_ROWS, len(heights))
        out[start:stop] = levels[start * step : stop * step : step, ::step]
        release(levels)  # the system maps far more around a row than the row
    return out


def release(levels: NDArray[Any]) -> None:
    """Give the pages of a memory-mapped array back to the system; the next access reads them from the file again.

    Does nothing for arrays in memory. Without it, a pass over a large map would count as memory used by this process.
    """
    base: Any = levels
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no such call on some systems
            base.madvise(mmap.MADV_DONTNEED)
