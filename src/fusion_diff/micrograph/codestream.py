"""The size that a compressed strip or tile claims in its own header.

Image codecs follow the header of the stream instead of the TIFF's tags. A tile of 16 x 16 pixels can therefore hold a
stream that decodes to gigabytes. Padding and decoys are skipped in the same way as by the decoders.
Sources: ITU-T T.81, annex B (JPEG); ISO 15948 (PNG).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from fusion_diff.micrograph.jpeg2000 import jpeg2000_pixels
from fusion_diff.micrograph.limits import refusal

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

JPEG, PNG, JPEG2000 = (6, 7, 33007, 34892), (34933,), (33003, 33004, 33005, 34712)

MAX_JPEG_SCANS = 32
"""Every scan is a pass over the whole image, even if it has few bytes. Progressive files have about ten scans."""

MAX_JPEG_SEGMENTS, MAX_EXIF_SEGMENTS = 4096, 64
"""Pillow keeps an object per segment and joins EXIF segments one by one. Large colour profiles have a few hundred."""

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # other codes are padding, stuffing or part of a scan


def codestream_pixels(data: bytes, compression: int) -> int:
    """Return the number of pixels that a strip or tile claims in its own header.

    Args:
        data: the strip or tile as stored.
        compression: the TIFF's compression code, one of `IMAGE_CODECS`.

    Returns:
        Columns times rows, at least 1; more for a JPEG 2000 stream of more than `MAX_CHANNELS` components, or whose
        parts cost more than its pixels.

    Raises:
        ValueError: the header gives no reliable size; the message says why.
    """
    try:
        pixels = int(_READERS[compression](data))
    except (IndexError, struct.error) as error:
        raise ValueError("it is truncated") from error
    if not pixels:
        raise ValueError("it claims no pixels")
    return pixels


def check_jpeg(name: str, data: bytes | mmap.mmap) -> None:
    """Refuse a JPEG stream that would take excessive time to decode, up to hours.

    Raises:
        MicrographError: it has more than `MAX_JPEG_SCANS` scans, `MAX_EXIF_SEGMENTS` segments of EXIF data, or
            `MAX_JPEG_SEGMENTS` segments in total.
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
                    f"its JPEG data have more than {limits[kind]:,} {kind}, which would take too long to decode",
                    "get a fresh copy from the instrument",
                )


def _png(data: bytes) -> int:
    width, height = struct.unpack_from(">II", data, 16)
    return int(width) * int(height)


def _jpeg(data: bytes) -> int:
    for marker, at in _jpeg_segments(data):
        # Start-of-frame markers hold the size. DHT, JPG and DAC are the other codes in this range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return int(width) * int(height)
        if marker == 0xDA:
            return 0
    return 0


def _jpeg_segments(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield marker and position of the length field of each segment of the first image, as decoders find them."""
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


_READERS: dict[int, Callable[[bytes], int]] = {
    code: reader for codes, reader in ((JPEG, _jpeg), (PNG, _png), (JPEG2000, jpeg2000_pixels)) for code in codes
}

IMAGE_CODECS = frozenset(_READERS)
"""Compressions whose decoders follow the stream's own header. All other decoders get the size of their output."""
