"""BMP: `load_microstructure_data` down to Pillow, palettes and run lengths too."""

from __future__ import annotations

import random
import struct

from common import INTERESTING, change_bytes
from images import check_image, pillow

MAX_LEN = 2**14


def seeds() -> list[bytes]:
    """Return BMPs of every depth, one of them run-length coded."""
    runs = b"".join(bytes([24, value % 256, 24, 255 - value % 256, 0, 0]) for value in range(40)) + b"\0\1"
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 48, 40, 1, 8, 1, len(runs), 4_000_000, 4_000_000, 256, 0)
    offset = 14 + len(header) + len(palette)
    coded = b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs
    return [coded, *(pillow("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA"))]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a number of the header; or bytes anywhere."""
    if len(data) < 54 or rng.random() < 0.5:
        return change_bytes(data, rng)
    out = bytearray(data)
    for _ in range(rng.randint(1, 2)):
        at = rng.choice((10, 14, 18, 22, 26, 28, 30, 34, 38, 42, 46, 50))
        number = rng.choice((*INTERESTING, rng.randrange(64), -1, -40)) & 0xFFFFFFFF
        if at in (26, 28):
            struct.pack_into("<H", out, at, number & 0xFFFF)
        else:
            struct.pack_into("<I", out, at, number)
    return bytes(out)


def check(data: bytes) -> None:
    """Read a BMP."""
    check_image(data)
