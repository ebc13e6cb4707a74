"""The chain of a TIFF's directories: `ifd.page_offset`."""

from __future__ import annotations

import io
import random
import struct

import fuzz_tiff
from common import FindingError, bounded_memory

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph.ifd import page_offset

MAX_LEN = 2**14
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def seeds() -> list[bytes]:
    """Return the TIFFs, and directories that lead to each other."""
    entry = struct.pack("<HHII", 256, 4, 1, 48)
    first = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 1) + entry
    loop = first + struct.pack("<I", 26) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return [*fuzz_tiff.seeds(), loop]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """As for TIFFs."""
    return fuzz_tiff.mutate(data, rng)


def check(data: bytes) -> None:
    """Find pages; a page that is found lies in the file."""
    if not data.startswith(_MAGIC):  # the callers have looked at the first bytes
        return
    for page in (0, 1, 99_999):
        with bounded_memory():
            try:
                offset = page_offset("image", io.BytesIO(data), len(data), page)
            except MicrographError:
                continue
        if not 0 < offset < len(data):
            raise FindingError(f"page {page} at byte {offset} of {len(data)}")
