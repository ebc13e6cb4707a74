"""The size that a compressed strip or tile claims for itself, read from its own header.

Codecs of images obey their own header and not the TIFF around it, so a tile of 16 x 16 pixels can hold a stream that
unfolds to gigabytes. Where a decoder passes over padding or decoys, so does this.
Sources: ITU-T T.81, annex B (JPEG); ISO 15948 (PNG); RFC 9649 (WebP); ISO 18181-1, annex D, and 18181-2 (JPEG XL);
ITU-T T.832, clause 8 (JPEG XR); the header of Esri's LERC.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING

from fusion_diff.micrograph.jpeg2000 import jpeg2000_pixels
from fusion_diff.micrograph.limits import MAX_CHANNELS, refusal

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

JPEG, PNG, JPEG2000 = (6, 7, 33007, 34892), (34933,), (33003, 33004, 33005, 34712)
WEBP, JPEG_XL, JPEG_XR, LERC = (34927, 50001), (50002, 52546), (22610, 34934), (34887,)

MAX_JPEG_SCANS = 32
"""Each scan is a pass over the whole image, however few bytes it takes; progressive files have about ten."""

MAX_JPEG_SEGMENTS, MAX_EXIF_SEGMENTS = 4096, 64
"""Pillow keeps an object of each segment and joins those of EXIF data one by one; large profiles take a few hundred."""

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # the rest is padding, stuffing or stands within a scan
_UNPACKED_LERC = 2**28  # bytes of one strip or tile

_JXL_HEADER = 34  # bytes, of which the size and what else is looked at take less
_JXL_RATIOS = (0.0, 1.0, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2.0)


def codestream_pixels(data: bytes, compression: int) -> int:
    """Return the pixels that a strip or tile claims in its own header.

    Args:
        data: the strip or tile as it is stored.
        compression: the TIFF's compression code.

    Returns:
        Columns times rows, and more where a pixel has more than `MAX_CHANNELS` values, or where the stream has parts
        that take more than its pixels; 0 where no size is found.
    """
    reader = _READERS.get(compression)
    try:
        return 0 if reader is None else int(reader(data))
    except (IndexError, ValueError, RuntimeError, struct.error, zlib.error):
        return 0


def check_jpeg(name: str, data: bytes | mmap.mmap) -> None:
    """Refuse a JPEG stream that was made to keep a reader busy.

    Raises:
        MicrographError: it has more than `MAX_JPEG_SCANS` scans, or more segments than `MAX_JPEG_SEGMENTS` in all or
            `MAX_EXIF_SEGMENTS` of EXIF data; reading it could take hours.
    """
    counts = {"scans": 0, "EXIF segments": 0, "segments": 0}
    limits = {"scans": MAX_JPEG_SCANS, "EXIF segments": MAX_EXIF_SEGMENTS, "segments": MAX_JPEG_SEGMENTS}
    for marker, at in _jpeg_segments(data):
        counts["segments"] += 1
        counts["scans"] += marker == 0xDA
        counts["EXIF segments"] += marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0"
        for kind, count in counts.items():
            if count > limits[kind]:
                raise refusal(
                    name,
                    f"a JPEG in it has more than {limits[kind]:,} {kind}",
                    "it was made to keep a reader busy: get a fresh copy from the instrument",
                )


def _png(data: bytes) -> int:
    width, height = struct.unpack_from(">II", data, 16)
    return int(width) * int(height)


def _jpeg(data: bytes) -> int:
    for marker, at in _jpeg_segments(data):
        # Start-of-frame markers carry the size; DHT, JPG and DAC are the other codes of that range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return int(width) * int(height)
        if marker == 0xDA:
            return 0
    return 0


def _jpeg_segments(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield the segments of the first image, as decoders find them: marker, and position of the length behind it."""
    position = max(data.find(b"\xff\xd8"), 0)
    while (found := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            return
        if marker not in (0x01, 0xD8):  # these stand alone
            if position + 2 > len(data):
                return
            yield marker, position
            position += struct.unpack_from(">H", data, position)[0]


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
        return _jpeg_xl_size(data)
    position, stream = 0, b""
    while position < len(data) and len(stream) < _JXL_HEADER:  # boxes; the codestream may be cut anywhere
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1:
            length, header = struct.unpack_from(">Q", data, position + 8)[0], 16
        end = position + length if length else len(data)
        if kind in (b"jxlc", b"jxlp"):
            start = position + header + (4 if kind == b"jxlp" else 0)  # parts are numbered
            stream += data[start : min(end, start + _JXL_HEADER)]
        if end < position + header:
            return 0
        position = end
    return _jpeg_xl_size(stream) if stream[:2] == b"\xff\x0a" else 0


def _jpeg_xl_size(stream: bytes) -> int:
    bits = int.from_bytes(stream[2:_JXL_HEADER], "little")

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
    data = _unpacked_lerc(data)
    # A band a blob, one after the other: their values add up, of up to 8 bytes each.
    values = 0
    for start in _all(data, b"Lerc2 "):
        version = struct.unpack_from("<i", data, start + 6)[0]
        at = start + 10 + (4 if version >= 3 else 0)
        rows, columns, depth = struct.unpack_from("<III", data, at)
        values += rows * columns * (-(-depth // MAX_CHANNELS) if version >= 4 else 1)
    for start in _all(data, b"CntZImage "):
        height, width = struct.unpack_from("<II", data, start + 18)
        values += height * width
    return max(values, len(data) // 16)


def _unpacked_lerc(data: bytes) -> bytes:
    """Return the blobs of a strip or tile, which its decoder takes as they are or out of zlib or Zstandard."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        import imagecodecs

        data = bytes(imagecodecs.zstd_decode(data, out=_UNPACKED_LERC))
    elif data[:1] == b"\x78":
        unpack = zlib.decompressobj()
        data = unpack.decompress(data, _UNPACKED_LERC)
        if unpack.unconsumed_tail:
            raise ValueError("more than a strip or tile holds")
    if not data.startswith((b"Lerc2 ", b"CntZImage ")):
        raise ValueError("what is measured would not be what is decoded")
    return data


def _all(data: bytes, mark: bytes) -> Iterator[int]:
    start = data.find(mark)
    while start >= 0:
        yield start
        start = data.find(mark, start + 1)


_READERS: dict[int, Callable[[bytes], int]] = {
    code: reader
    for codes, reader in (
        (JPEG, _jpeg),
        (PNG, _png),
        (JPEG2000, jpeg2000_pixels),
        (WEBP, _webp),
        (JPEG_XL, _jpeg_xl),
        (JPEG_XR, _jpeg_xr),
        (LERC, _lerc),
    )
    for code in codes
}

IMAGE_CODECS = frozenset(_READERS)
"""Compressions whose decoders obey the stream's own header; all others are told how much to give."""
