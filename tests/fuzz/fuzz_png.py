"""PNG: `load_microstructure_data` down to libpng, and the pixel size of the pHYs chunk."""

from __future__ import annotations

import random
import struct
import zlib

import imagecodecs
import numpy as np
from common import INTERESTING, change_bytes
from images import COLOUR, TEXTURE, check_image, pillow

MAX_LEN = 2**14


def seeds() -> list[bytes]:
    """Return PNGs of every depth and colour type."""
    return [
        imagecodecs.png_encode(TEXTURE),
        imagecodecs.png_encode(TEXTURE.astype(np.uint16) * 257),
        imagecodecs.png_encode(COLOUR),
        pillow("PNG", "P"),
        pillow("PNG", "1"),
        pillow("PNG", "LA"),
        pillow("PNG", "RGBA", dpi=(30000, 30000)),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes of a chunk and mend its checksum; or bytes anywhere."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int(struct.unpack_from(">I", data, at)[0])
        if at + 12 + length > len(data):
            break
        chunks.append((at, length))
        at += 12 + length
    if not chunks or rng.random() < 0.3:
        return change_bytes(data, rng)
    at, length = rng.choice(chunks[:3] if rng.random() < 0.5 else chunks)
    body = bytearray(data[at + 8 : at + 8 + length])
    if len(body) >= 8 and rng.random() < 0.5:
        struct.pack_into(">I", body, rng.choice((0, 4)), rng.choice(INTERESTING) & 0xFFFFFFFF)
    else:
        body = bytearray(change_bytes(bytes(body), rng))
    kind = data[at + 4 : at + 8]
    whole = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:at] + whole + data[at + 12 + length :]


def check(data: bytes) -> None:
    """Read a PNG."""
    check_image(data)
