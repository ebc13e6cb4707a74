"""Checks of a TIFF's directories, so that a hostile file is refused before any library parses it.

Only the chain of directories and the sizes of their tags are read here. The chain may loop, be endless, or hold tags
of gigabytes. tifffile reads the pixels afterwards, from directories of checked size.
Source: TIFF revision 6.0, section 2, and the BigTIFF specification of the libtiff project.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from fusion_diff.micrograph.limits import refusal, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PAGES = 100_000
"""Maximum number of directories; a longer chain is not followed further."""

MAX_TAGS = 4096
"""Maximum number of tags in one directory; real directories have a few dozen."""

MOST_TAGS = 2**20
"""Maximum number of tags read from all directories together. Overlapping directories can hold any number of tags."""

MAX_VALUES = 2**23 + 2**20
"""Maximum number of values in the tags of a directory: enough for the offsets and sizes of 4 million tiles."""

MAX_TEXT_BYTES = 2**26
"""Maximum number of bytes in the tags of single bytes, texts and tables, that are read with the directory."""

# Bytes per value of each TIFF data type.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Tags that are never read may have any number of bytes: colour profiles, XMP, layers of image programs. Read are the
# basic ones, and some private ones: depths, UIC data, ImageJ data.
_BASIC = range(700)
_PRIVATE = {32997, 32998, 33628, 42113, 50838, 50839}

# Tags that `directories` returns: kind of page, size, depth, codec, colour, offset of pixels, samples, sample format.
_TOLD = {254, 255, 256, 257, 258, 259, 262, 273, 277, 339}
_DESCRIPTION = 270
_TEXT_BYTES = 4096  # bytes read from the start of a description
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Directory:
    """The main tags of a directory.

    Attributes:
        numbers: first value of each integer tag, by tag.
        description: beginning of its description.
    """

    numbers: dict[int, int]
    description: bytes


@dataclass(frozen=True)
class _Layout:
    """Byte order and number formats of a TIFF."""

    order: str
    offset: str
    count: str
    entry_size: int


def page_offset(name: str, handle: BinaryIO, size: int, page: int) -> int:
    """Find a page's directory, and check that it and the first directory can be parsed in bounded memory.

    Args:
        name: the file's name in error messages.
        handle: the file, seekable.
        size: its length in bytes.
        page: index of the page in the chain of directories, from 0.

    Returns:
        The position of the page's directory in the file.

    Raises:
        MicrographError: the header or a directory is damaged or truncated, or there is no such page.
    """
    layout, offset = _header(name, handle)
    found = list(islice(_chain(name, handle, size, layout, offset), min(page, MAX_PAGES) + 1))
    if page >= len(found):
        pages = "1 page" if len(found) == 1 else f"{len(found):,} pages"
        raise refusal(name, f"it has {pages}, so there is no page {page}", f"choose a page from 0 to {len(found) - 1}")
    for directory in {found[0], found[page]}:
        _check_tags(name, handle, layout, directory)
    return found[page]


def directories(name: str, handle: BinaryIO, size: int) -> Iterator[Directory]:
    """Yield the main tags of each directory in the chain. Stop after `MOST_TAGS` tags in total.

    Args:
        name: the file's name in error messages.
        handle: the file, seekable.
        size: its length in bytes.

    Raises:
        MicrographError: the header or the first directory is damaged or truncated.
    """
    layout, first = _header(name, handle)
    left = MOST_TAGS
    for offset in _chain(name, handle, size, layout, first):
        try:
            left -= (tags := _tag_count(handle, layout, offset))
        except struct.error:  # the file has become shorter
            return
        if left < 0:
            return
        yield _told(handle, size, layout, handle.read(tags * layout.entry_size))


def _told(handle: BinaryIO, size: int, layout: _Layout, data: bytes) -> Directory:
    numbers: dict[int, int] = {}
    text = b""
    for start in range(0, len(data) - layout.entry_size + 1, layout.entry_size):
        code, kind = struct.unpack_from(layout.order + "HH", data, start)
        if code not in _TOLD and code != _DESCRIPTION:
            continue
        count = struct.unpack_from(layout.order + layout.offset, data, start + 4)[0]
        value = data[start + 4 + struct.calcsize("=" + layout.offset) : start + layout.entry_size]
        if count * _TYPE_SIZES.get(kind, 1) > len(value):  # the value is stored elsewhere
            where = struct.unpack(layout.order + layout.offset, value)[0]
            handle.seek(min(where, size))
            value = handle.read(min(count, _TEXT_BYTES) if code == _DESCRIPTION else 8)
        if code == _DESCRIPTION:
            text = value
        elif kind in _INTEGERS and len(value) >= _TYPE_SIZES[kind]:
            numbers[code] = int(struct.unpack_from(layout.order + _INTEGERS[kind], value)[0])
    return Directory(numbers, text)


def _chain(name: str, handle: BinaryIO, size: int, layout: _Layout, offset: int) -> Iterator[int]:
    """Yield the positions of the directories. The chain ends before one that was seen already or leaves the file."""
    if not 8 <= offset < size:
        raise truncated(name, f"its first directory should start at byte {offset:,}, but the file has {size:,} bytes")
    seen: set[int] = set()
    while 0 < offset < size and offset not in seen and len(seen) < MAX_PAGES:
        following = _next_offset(handle, layout, offset)
        if following is None:
            if not seen:
                raise truncated(name, "its first directory is cut off or damaged")
            break
        seen.add(offset)
        yield offset
        offset = following


def _header(name: str, handle: BinaryIO) -> tuple[_Layout, int]:
    handle.seek(0)
    head = handle.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    try:
        if struct.unpack_from(order + "H", head, 2)[0] == 43:
            if struct.unpack_from(order + "HH", head, 4) != (8, 0):
                raise refusal(name, "its BigTIFF header is damaged", "export it again as TIFF or PNG")
            return _Layout(order, "Q", "Q", 20), int(struct.unpack_from(order + "Q", head, 8)[0])
        return _Layout(order, "I", "H", 12), int(struct.unpack_from(order + "I", head, 4)[0])
    except struct.error as error:
        raise truncated(name, f"it ends within its header, after {len(head)} bytes") from error


def _tag_count(handle: BinaryIO, layout: _Layout, offset: int) -> int:
    handle.seek(offset)
    return int(struct.unpack(layout.order + layout.count, handle.read(struct.calcsize("=" + layout.count)))[0])


def _next_offset(handle: BinaryIO, layout: _Layout, offset: int) -> int | None:
    """Return the position of the next directory (0: none), or None if this one is unreadable."""
    try:
        tags = _tag_count(handle, layout, offset)
        if not 0 < tags <= MAX_TAGS:
            return None
        handle.seek(tags * layout.entry_size, 1)
        link = handle.read(struct.calcsize("=" + layout.offset))
        return int(struct.unpack(layout.order + layout.offset, link)[0])
    except struct.error:
        return None


def _check_tags(name: str, handle: BinaryIO, layout: _Layout, offset: int) -> None:
    tags = _tag_count(handle, layout, offset)
    data = handle.read(tags * layout.entry_size)
    values = text = 0  # of all tags together, because tags may share their content, and tifffile reads repeated ones
    for start in range(0, len(data), layout.entry_size):
        code, kind = struct.unpack_from(layout.order + "HH", data, start)
        count = struct.unpack_from(layout.order + layout.offset, data, start + 4)[0]
        width = _TYPE_SIZES.get(kind, 0)
        values += count if width > 1 else 0
        text += count if width == 1 and (code in _BASIC or code in _PRIVATE) else 0
        if values > MAX_VALUES or text > MAX_TEXT_BYTES:
            problem = f"its tags are too large (tag {code} claims {count:,} values)"
            raise refusal(name, problem, "export it again as plain TIFF or PNG")
