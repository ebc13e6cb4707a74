"""The size that a compressed strip or tile claims for itself, read from its own header.

Codecs of images obey their own header and not the TIFF around it, so a tile of 16 x 16 pixels can hold a stream that
unfolds to gigabytes. Where a decoder passes over padding or decoys, so does this.
Sources: ITU-T T.81, annex B (JPEG); ISO 15948 (PNG); ISO 15444-1, annex A (JPEG 2000); RFC 9649 (WebP); ISO 18181-1,
annex D (JPEG XL); ITU-T T.832, clause 8 (JPEG XR); the header of Esri's LERC.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

from fusion_diff.micrograph.limits import MAX_CHANNELS, refusal

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

JPEG, PNG, JPEG2000 = (6, 7, 33007, 34892), (34933,), (33003, 33004, 33005, 34712)
WEBP, JPEG_XL, JPEG_XR, LERC = (34927, 50001), (50002, 52546), (22610, 34934), (34887,)

MAX_JPEG_SCANS = 100
"""Each scan is a pass over the whole image, however few bytes it takes; progressive files have about ten."""

_JXL_RATIOS = (0.0, 1.0, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2.0)


def codestream_pixels(data: bytes, compression: int) -> int:
    """Return the pixels that a strip or tile claims in its own header.

    Args:
        data: the strip or tile as it is stored.
        compression: the TIFF's compression code.

    Returns:
        Columns times rows, and more where a pixel has more than `MAX_CHANNELS` values; 0 where no size is found.
    """
    reader = _READERS.get(compression)
    try:
        return 0 if reader is None else int(reader(data))
    except (IndexError, ValueError, struct.error):
        return 0


def check_scans(name: str, data: bytes | mmap.mmap) -> None:
    """Refuse a JPEG stream of more than `MAX_JPEG_SCANS` scans.

    Raises:
        MicrographError: it has more; decoding it could take hours.
    """
    if sum(1 for _ in islice(_all(data, b"\xff\xda"), MAX_JPEG_SCANS + 1)) > MAX_JPEG_SCANS:
        raise refusal(
            name,
            f"a JPEG in it has more than {MAX_JPEG_SCANS} scans",
            "it was made to keep a reader busy: get a fresh copy from the instrument",
        )


def _png(data: bytes) -> int:
    width, height = struct.unpack_from(">II", data, 16)
    return int(width) * int(height)


def _jpeg(data: bytes) -> int:
    position = data.index(b"\xff\xd8") + 2
    while True:
        position = data.index(b"\xff", position)
        while data[position] == 0xFF:  # any number of fill bytes
            position += 1
        marker = data[position]
        position += 1
        # Start-of-frame markers carry the size; DHT, JPG and DAC are the other codes of that range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            return int(width) * int(height)
        if marker in (0xD9, 0xDA):
            return 0
        if marker not in (0x00, 0x01, *range(0xD0, 0xD9)):  # these stand alone
            position += struct.unpack_from(">H", data, position)[0]


def _jpeg2000(data: bytes) -> int:
    # The largest of all: boxes before the right one may hold a decoy. No compressed data contain this marker.
    sizes = []
    for start in _all(data, b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
        components = struct.unpack_from(">H", data, start + 40)[0]
        sizes.append((right - left) * (bottom - top) * -(-components // MAX_CHANNELS))
    return max(sizes, default=0)


def _webp(data: bytes) -> int:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0
    sizes = []
    for start in _all(data, b"VP8"):
        kind = data[start : start + 4]
        if kind == b"VP8X" and start + 18 <= len(data):
            width, height = (int.from_bytes(data[start + at : start + at + 3], "little") + 1 for at in (12, 15))
        elif kind == b"VP8L" and data[start + 8 : start + 9] == b"\x2f":
            bits = struct.unpack_from("<I", data, start + 9)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"VP8 " and data[start + 11 : start + 14] == b"\x9d\x01\x2a":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, start + 14))
        else:
            continue
        sizes.append(width * height)
    return max(sizes, default=0)


def _jpeg_xl(data: bytes) -> int:
    if data[:2] == b"\xff\x0a":
        return _jpeg_xl_size(data, 2)
    position = 0
    while True:  # boxes, until the one with the codestream
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1:
            length, header = struct.unpack_from(">Q", data, position + 8)[0], 16
        if kind in (b"jxlc", b"jxlp"):
            start = position + header + (4 if kind == b"jxlp" else 0)  # parts are numbered
            return _jpeg_xl_size(data, start + 2) if data[start : start + 2] == b"\xff\x0a" else 0
        if length < header:
            return 0
        position += length


def _jpeg_xl_size(data: bytes, start: int) -> int:
    bits = int.from_bytes(data[start : start + 32], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    def size() -> int:
        small = take(1)
        height = (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1
        if ratio := take(3):
            return int(height * _JXL_RATIOS[ratio]) * height
        return height * ((take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1)

    pixels, extra = size(), 0
    if not take(1):  # the metadata are not the default ones
        if take(1):
            take(3)  # orientation
            if take(1):
                size()
            if take(1) or take(1):  # a preview or an animation: no tile has one
                return 0
        floating = take(1)
        if take(2) == 3:
            take(6)  # bits of a sample
        if floating:
            take(4)
        take(1)
        extra = (0, 1, 2 + (bits >> 2 & 15), 1 + (bits >> 2 & 4095))[take(2)]
    return pixels * -(-(3 + extra) // MAX_CHANNELS)


def _jpeg_xr(data: bytes) -> int:
    sizes = []
    for start in _all(data, b"WMPHOTO\0"):
        short = data[start + 10] & 0x80
        width, height = struct.unpack_from(">HH" if short else ">II", data, start + 12)
        sizes.append((width + 1) * (height + 1))
    return max(sizes, default=0)


def _lerc(data: bytes) -> int:
    # A band a blob, one after the other: their values add up.
    values = 0
    for start in _all(data, b"Lerc2 "):
        version = struct.unpack_from("<i", data, start + 6)[0]
        at = start + 10 + (4 if version >= 3 else 0)
        rows, columns, depth = struct.unpack_from("<III", data, at)
        values += rows * columns * (-(-depth // MAX_CHANNELS) if version >= 4 else 1)
    for start in _all(data, b"CntZImage "):
        height, width = struct.unpack_from("<II", data, start + 18)
        values += height * width
    return values


def _all(data: bytes | mmap.mmap, mark: bytes) -> Iterator[int]:
    start = data.find(mark)
    while start >= 0:
        yield start
        start = data.find(mark, start + 1)


_READERS: dict[int, Callable[[bytes], int]] = {
    code: reader
    for codes, reader in (
        (JPEG, _jpeg),
        (PNG, _png),
        (JPEG2000, _jpeg2000),
        (WEBP, _webp),
        (JPEG_XL, _jpeg_xl),
        (JPEG_XR, _jpeg_xr),
        (LERC, _lerc),
    )
    for code in codes
}

IMAGE_CODECS = frozenset(_READERS)
"""Compressions whose decoders obey the stream's own header; all others are told how much to give."""
