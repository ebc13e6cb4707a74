"""Data bars: `databar.data_bar_rows` on images of any depth and content."""

from __future__ import annotations

import random
import warnings

import numpy as np
from common import FindingError, bounded_memory, change_bytes
from images import COLOUR, TEXTURE

from fusion_diff.micrograph.databar import LARGEST_FRACTION, data_bar_rows

MAX_LEN = 2**16
_DTYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int64, np.float32, np.float64)


def seeds() -> list[bytes]:
    """Return images behind four bytes: dtype, columns, channels, and rows according to the metadata."""
    barred = np.concatenate([np.tile(TEXTURE, (4, 2)), np.zeros((24, 96), np.uint8)])
    barred[170:178, 4:90:3] = 255
    return [
        bytes([0, 48, 0, 0]) + TEXTURE.tobytes(),
        bytes([0, 48, 1, 30]) + COLOUR.tobytes(),
        bytes([0, 96, 0, 0]) + barred.tobytes(),
        bytes([1, 96, 0, 160]) + barred.astype(np.uint16).tobytes(),
        bytes([5, 48, 0, 0]) + TEXTURE.astype(np.float32).tobytes(),
        bytes([6, 48, 0, 0]) + TEXTURE.astype(np.float64).tobytes(),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes anywhere."""
    return change_bytes(data, rng)


def check(data: bytes) -> None:
    """Look for a bar; what is to be cropped leaves a micrograph. Pixels that are not finite never come so far."""
    if len(data) < 5:
        return
    dtype, channels, width = np.dtype(_DTYPES[data[0] % 7]), 3 if data[2] % 2 else 1, max(32, data[1])
    whole = np.frombuffer(data[4 : len(data) - (len(data) - 4) % dtype.itemsize], dtype)
    rows = len(whole) // (width * channels)
    if rows < 1:
        return
    levels = whole[: rows * width * channels].reshape((rows, width, channels) if channels == 3 else (rows, width))
    if rows < 32 or not np.isfinite(levels.astype(np.float64)).all() or np.abs(levels.astype(np.float64)).max() > 1e38:
        return
    with bounded_memory(), warnings.catch_warnings():
        warnings.simplefilter("error")
        bar = data_bar_rows(levels, data[3] or None)
    if not 0 <= bar <= rows * LARGEST_FRACTION or rows - bar < 32:
        raise FindingError(f"a bar of {bar} rows in an image of {rows}")
