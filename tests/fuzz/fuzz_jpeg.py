"""JPEG: `load_microstructure_data` down to Pillow and libjpeg, and the camera's name in its EXIF data."""

from __future__ import annotations

import random
import struct

from common import INTERESTING, change_bytes
from images import check_image, pillow
from PIL import Image

MAX_LEN = 2**14


def seeds() -> list[bytes]:
    """Return JPEGs: grey, colour, progressive, with EXIF data, of four colours."""
    exif = Image.Exif()
    exif[271], exif[272], exif[282] = "Keyence", "VHX", 25.0
    return [
        pillow("JPEG"),
        pillow("JPEG", "RGB", progressive=True),
        pillow("JPEG", "RGB", exif=exif, dpi=(25000, 25000)),
        pillow("JPEG", "CMYK"),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, leave out or double a segment; or change bytes anywhere."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        segments.append((at, length))
        at += length
    if not segments or rng.random() < 0.4:
        return change_bytes(data, rng)
    at, length = rng.choice(segments)
    segment = bytearray(data[at : at + length])
    what = rng.randrange(4)
    if what == 0:
        segment *= 2
    elif what == 1:
        segment[1] = rng.randrange(0xC0, 0x100)
    elif what == 2 and len(segment) > 6:
        struct.pack_into(">H", segment, rng.randrange(2, len(segment) - 2), rng.choice(INTERESTING) & 0xFFFF)
    else:
        segment = bytearray(change_bytes(bytes(segment), rng))
    return data[:at] + bytes(segment) + data[at + length :]


def check(data: bytes) -> None:
    """Read a JPEG."""
    check_image(data)
