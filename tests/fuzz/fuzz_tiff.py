"""TIFF: `load_microstructure_data` down to tifffile and the codecs of strips and tiles."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from common import INTERESTING, change_bytes
from images import COLOUR, TEXTURE, check_image
from PIL import Image

MAX_LEN = 2**15
_TAGS = (*range(254, 263), 266, 270, 273, *range(277, 285), 296, 305, 317, *range(320, 326), 338, 339, 347, 513, 530)
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 34712, 34887, 34892, 34925, 34933, 50000, 50001, 50002, 22610)


def tiff(levels: Any = TEXTURE, **options: Any) -> bytes:
    """Return a TIFF."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, levels, **options)
    return stream.getvalue()


def _with_strip(strip: bytes, compression: int) -> bytes:
    """Return a TIFF of one strip that tifffile does not write, in the place of an uncompressed one."""
    data = bytearray(tiff(metadata=None))
    entries = {tag: at for at, tag in _entries(data)}
    struct.pack_into("<H", data, entries[259] + 8, compression)
    struct.pack_into("<HII", data, entries[273] + 2, 4, 1, len(data))
    struct.pack_into("<HII", data, entries[279] + 2, 4, 1, len(strip))
    return bytes(data) + strip


def _jpeg2000() -> bytes:
    # Tiles, precincts and layers, which tifffile does not ask the encoder for.
    stream = io.BytesIO()
    options: dict[str, Any] = {"tile_size": (32, 32), "precinct_size": (16, 16), "quality_layers": [8, 4]}
    Image.fromarray(TEXTURE).save(stream, "JPEG2000", num_resolutions=3, **options)
    return _with_strip(stream.getvalue(), 34712)


def seeds() -> list[bytes]:
    """Return TIFFs of every layout and codec that is read."""
    colour: dict[str, Any] = {"photometric": "rgb"}
    return [
        tiff(),
        tiff(TEXTURE.astype(np.uint16) * 257, byteorder=">"),
        tiff(TEXTURE.astype(np.float32), compression="zlib", predictor=True),
        tiff(TEXTURE.astype(np.int16), bigtiff=True),
        tiff(TEXTURE > 128),
        tiff(rowsperstrip=8, compression="lzw", predictor=True),
        tiff(COLOUR, tile=(16, 16), compression="zstd", **colour),
        tiff(COLOUR, planarconfig="separate", compression="packbits", **colour),
        tiff(COLOUR, compression="jpeg", tile=(16, 16), **colour),
        tiff(COLOUR, compression="jpeg2000", **colour),
        tiff(compression="png"),
        tiff(compression="lzma"),
        tiff(np.stack([TEXTURE] * 2), photometric="minisblack"),
        tiff(photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 80),
        tiff(photometric="miniswhite"),
        tiff(imagej=True, resolution=(2, 2), metadata={"unit": "um"}),
        tiff(ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}),
        _with_strip(imagecodecs.ljpeg_encode(TEXTURE), 7),
        _jpeg2000(),
    ]


def _entries(data: bytes | bytearray) -> list[tuple[int, int]]:
    """Return (position, tag) of the entries of a classic TIFF's first directory."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        start = struct.unpack_from(order + "I", data, 4)[0]
        count = struct.unpack_from(order + "H", data, start)[0]
        places = [start + 2 + 12 * index for index in range(min(count, 100))]
        return [(at, struct.unpack_from(order + "H", data, at)[0]) for at in places if at + 12 <= len(data)]
    except struct.error:
        return []


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change entries of the first directory: tag, type, count or value; or bytes anywhere."""
    out = bytearray(data)
    entries = _entries(out)
    if not entries or rng.random() < 0.3:
        return change_bytes(data, rng)
    order = "<" if out[:2] == b"II" else ">"
    for _ in range(rng.randint(1, 3)):
        at, tag = rng.choice(entries)
        what = rng.randrange(5)
        if what == 0:
            struct.pack_into(order + "H", out, at, rng.choice(_TAGS))
        elif what == 1:
            struct.pack_into(order + "H", out, at + 2, rng.randrange(20))
        elif what == 2:
            struct.pack_into(order + "I", out, at + 4, rng.choice((*INTERESTING, rng.randrange(100))))
        elif tag == 259:
            struct.pack_into(order + "H", out, at + 8, rng.choice(_COMPRESSIONS))
        else:
            value = rng.choice((*INTERESTING, rng.randrange(100), rng.randrange(len(out)))) & 0xFFFFFFFF
            if rng.random() < 0.5:
                struct.pack_into(order + "H", out, at + 8, value & 0xFFFF)
            else:
                struct.pack_into(order + "I", out, at + 8, value)
    return bytes(out)


def check(data: bytes) -> None:
    """Read the first two pages."""
    check_image(data, pages=2)
