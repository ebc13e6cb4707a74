"""The cost of decoding a JPEG 2000 stream, estimated from its headers and expressed in pixels.

A few hundred bytes can declare millions of tiles, precincts, code blocks or layers. OpenJPEG needs memory or time for
each of them, even if they are empty. They are therefore counted as the number of pixels of equal cost. For an ordinary
stream, whatever its options, the parts cost less than its pixels, and the result is the number of pixels. Streams in
which OpenJPEG would have to search for segments are refused.
Source: ISO 15444-1, annexes A (markers), B (tiles, precincts, code blocks, packets) and I (boxes).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusion_diff.micrograph.limits import MAX_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD, _COC, _POC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF5F, 0xFF90, 0xFF93
_SOT_SEGMENT = b"\xff\x90\x00\x0a"  # no packet contains these bytes, so a plain search finds all segments
_SKIPPED = frozenset(0xFF00 | code for code in b"\x50\x55\x57\x58\x59\x5c\x5d\x5e\x60\x61\x63\x64\x74\x75\x77\x78")
"""Other segments known to OpenJPEG 2.5. After an unknown segment it searches the data for the next one."""

_SHORTEST = 4  # bytes of a segment without content
_LOOKED_AT = 64  # bytes of a segment's content that say something here

_MOST_TILES = 65535
_MOST_STYLES = 64  # coding styles, which may differ by component and tile
_PROGRESSIONS = 32  # maximum number in a POC segment; each is a pass over the packets

# Costs in pixels of equal memory and time: about 8,000, 1,400 and 600 bytes, and 150 ns.
_FURTHER_TILE, _TILE_COMPONENT, _BLOCK, _PACKET = 512, 128, 64, 4


class _Style(NamedTuple):
    """Coding style of components, from a COD or COC segment."""

    levels: int
    block: tuple[int, int]
    """Exponents of the width and height of a code block."""
    precincts: bytes
    """Exponents of width (low four bits) and height (high four bits), one byte per resolution."""


def jpeg2000_pixels(data: bytes) -> int:
    """Return the number of pixels that a JPEG 2000 stream claims, or the cost of its parts in pixels if larger.

    Args:
        data: the stream as stored, in boxes (JP2) or bare.

    Returns:
        Columns times rows, multiplied by the number of components over `MAX_CHANNELS`, rounded up.

    Raises:
        ValueError: the stream has no size, or an unusual layout; the message is a clause on "it", the header.
        IndexError: a segment is truncated.
        struct.error: likewise.
    """
    start = _codestream(data)
    size: tuple[int, ...] = struct.unpack_from(">8I", data, start + 8)
    components: int = struct.unpack_from(">H", data, start + 40)[0]
    right, bottom, left, top = size[:4]

    styles, layers, progressions = set(), 1, 1
    main = _segments(data, start + 2, _SOT, first=True)
    parts_of_tiles = (_segments(data, at + 12, _SOD) for at in _all(data, _SOT_SEGMENT))
    for number, (marker, content) in enumerate(chain(main, chain.from_iterable(parts_of_tiles))):
        if number * _SHORTEST > len(data):  # segments hide starts of others, which lead through the same again
            raise ValueError("it has headers within headers")
        if marker == _COD:
            layers = max(layers, struct.unpack_from(">H", content, 2)[0])
            styles.add(_style(content[5:], content[0]))
        elif marker == _COC:
            content = content[1 if components < 257 else 2 :]
            styles.add(_style(content[1:], content[0]))
        elif marker == _POC:
            progressions = _PROGRESSIONS
        if len(styles) > _MOST_STYLES:
            raise ValueError(f"it has more than {_MOST_STYLES} coding styles")
    if not styles:
        raise ValueError("it has no coding style")
    parts = max(_parts(style, size, components, layers * progressions) for style in styles)
    return max((right - left) * (bottom - top) * -(-components // MAX_CHANNELS), parts)


def _codestream(data: bytes) -> int:
    """Return the position of the codestream that OpenJPEG would decode."""
    position = 0
    if data[:2] != _SOC_SIZ[:2]:  # in boxes
        while True:
            length, kind = struct.unpack_from(">I4s", data, position)
            header = 8
            if length == 1:
                length, header = struct.unpack_from(">Q", data, position + 8)[0], 16
            if kind == b"jp2c":
                break
            if not header <= length < 2**32:
                raise ValueError("it has a box without a length")
            position += length
        position += header
        if b"pclr" in data[:position]:
            raise ValueError("it has a palette, which can expand one channel to 255")
    if data[position : position + 4] != _SOC_SIZ:
        raise ValueError("it does not start with the size")
    return position


def _edges(low: int, high: int, first: int, step: int) -> NDArray[np.int64]:
    """Return the starts of the tiles along one side of the image, and the end of the last tile."""
    if not first <= low < min(high, first + step):
        raise ValueError("its first tile is empty")
    number = -(-(high - first) // step)
    if number > _MOST_TILES:
        raise ValueError("it has more tiles than the format allows")
    edges = first + step * np.arange(number + 1, dtype=np.int64)
    return np.clip(edges, low, high)


def _segments(data: bytes, position: int, end: int, *, first: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield marker and first `_LOOKED_AT` bytes of content of a header's segments up to the marker `end`."""
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == end:
            return
        # The first segment of the first header, and of no other, is the size.
        if length < 2 or not (first or marker in _SKIPPED or marker in (_COD, _COC, _POC)):
            raise ValueError("it has a segment of an unknown kind")
        yield marker, data[position + 4 : position + min(2 + length, 4 + _LOOKED_AT)]
        position, first = position + 2 + length, False


def _style(content: bytes, flags: int) -> _Style:
    levels, block = content[0], (content[1] + 2, content[2] + 2)
    precincts = content[5 : 6 + levels] if flags & 1 else b"\xff" * (levels + 1)
    if levels > 32 or max(block) > 10 or len(precincts) <= levels:
        raise ValueError("it has a coding style that the format does not allow")
    return _Style(levels, block, precincts)


@lru_cache(maxsize=64)  # the tiles of a TIFF are streams of one kind
def _parts(style: _Style, size: tuple[int, ...], components: int, layers: int) -> int:
    """Return the cost of the tiles, code blocks and packets in pixels.

    Tiles form a grid, so the counts along both sides are multiplied.
    """
    right, bottom, left, top, width, height, tiles_left, tiles_top = size
    columns, rows = _edges(left, right, tiles_left, width), _edges(top, bottom, tiles_top, height)
    tiles = (len(columns) - 1) * (len(rows) - 1)
    if tiles > _MOST_TILES:
        raise ValueError("it has more tiles than the format allows")
    blocks, most, step = 0, 0, [64, 64]
    for resolution, exponents in enumerate(style.precincts):
        down, half = style.levels - resolution, int(resolution > 0)  # all but the lowest have three bands, of half size
        precincts, cells = 1, 1
        for side, (edges, exponent) in enumerate(zip((columns, rows), (exponents & 15, exponents >> 4), strict=True)):
            scaled = -(-edges >> down)
            whole = _cells(scaled[:-1], scaled[1:], exponent)
            parts = _cells(scaled[:-1] >> half, -(-scaled[1:] >> half), min(style.block[side], max(exponent - half, 0)))
            precincts *= int(whole.sum())
            cells *= int(np.maximum(whole, parts).sum())
            step[side] = min(step[side], exponent + down)
        blocks += cells * (3 if half else 1)
        most = max(most, precincts)
    # Some packet orders traverse the image in steps of the smallest precinct.
    places = [
        int(_cells(edges[:-1], edges[1:], exponent).sum())
        for edges, exponent in zip((columns, rows), step, strict=True)
    ]
    packets = (style.levels + 1) * (most * (layers + 1) + places[0] * places[1])
    return (tiles - 1) * _FURTHER_TILE + components * (tiles * _TILE_COMPONENT + blocks * _BLOCK + packets * _PACKET)


def _cells(low: NDArray[np.int64], high: NDArray[np.int64], exponent: int) -> NDArray[np.int64]:
    """Return the number of cells of a grid of `2**exponent` that each interval overlaps."""
    return np.where(high > low, -(-high >> exponent) - (low >> exponent), 0)


def _all(data: bytes, mark: bytes) -> Iterator[int]:
    start = data.find(mark)
    while start >= 0:
        yield start
        start = data.find(mark, start + 1)
