"""Choice of the image to read from a TIFF. Thumbnails are skipped, and further images are reported."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_diff.micrograph.ifd import directories

if TYPE_CHECKING:
    from fusion_diff.micrograph.ifd import Directory
    from fusion_diff.micrograph.source import Source

_NEW_KIND, _OLD_KIND = 254, 255
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2  # values of these two tags
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOUR, _OFFSET, _SAMPLES, _FORMAT = 256, 257, 258, 259, 262, 273, 277, 339
_ALIKE = ((_WIDTH, 0), (_HEIGHT, 0), (_BITS, 1), (_COLOUR, -1), (_SAMPLES, 1), (_FORMAT, 1))  # tags and their defaults
_IMAGEJ = re.compile(rb"ImageJ=[^\n]*\n(?:.*\n)??images=(\d{1,9})\s")
_THUMBNAIL = 4
"""Ratio of pixels from which the first image counts as a thumbnail. A copy with a data bar stays below it."""

_Kind = tuple[int, ...]  # values of the tags in _ALIKE

_CHOOSE = "Split it into files, or choose a page: --page 0 on the command line, or page=0 in Python"


@dataclass(frozen=True)
class PageChoice:
    """The page of a TIFF to read if none was requested.

    Attributes:
        page: its index, from 0.
        notes: sentences on other images in the file that the user may have meant.
        cure: what to do if another image was meant; empty if the file itself marks this one as the main image.
    """

    page: int
    notes: tuple[str, ...] = ()
    cure: str = ""


def choose_page(source: Source) -> PageChoice:
    """Choose the first image of a TIFF, or the largest if the first is a thumbnail.

    A thumbnail is marked as a reduced copy, or has at most a quarter of the largest image's pixels. Pages marked as
    reduced copies (thumbnails and pyramid levels) or as masks do not count as further images.

    Raises:
        MicrographError: the directories are damaged.
    """
    pages = directories(source.name, source.handle, source.size)
    first = next(pages, None)
    if first is None:
        return PageChoice(0)
    beginning, whole = _kind(first), _is_whole(first)
    found: dict[_Kind, int] = {beginning: 0} if whole else {}  # the first page of each kind
    counts = Counter(found.keys())
    for index, each in enumerate(pages, start=1):
        if _is_whole(each):
            found.setdefault(_kind(each), index)
            counts[_kind(each)] += 1
    if not found:
        said = "The image is marked as a reduced copy of a larger one, but the file does not contain the larger one."
        return PageChoice(0, (said,), "Export the larger one as a plain TIFF or PNG")
    largest = max(found, key=_pixels)  # the first of several
    chosen = beginning if whole and _pixels(largest) < _THUMBNAIL * _pixels(beginning) else largest
    page, notes = found[chosen], []
    if page:
        notes.append(
            f"The first page is a thumbnail of {_size(beginning)} pixels, so page {page} (counted from 0) of "
            f"{_size(chosen)} pixels was read."
        )
    elif _pixels(largest) > _pixels(chosen):
        notes.append(
            f"The first page was read ({_size(chosen)} pixels), although page {found[largest]} (counted from 0) is "
            f"larger ({_size(largest)} pixels)."
        )
    alike = counts[chosen] if page else max(counts[chosen], _in_one_directory(first, source.size))
    if alike > 1:
        notes.append(f"The file holds {alike:,} images of the same size; only the first was read.")
    sure = not notes or (not whole and alike == 1)
    cure = "" if sure else _CHOOSE
    return PageChoice(page, tuple(notes), cure)


def _kind(page: Directory) -> _Kind:
    return tuple(page.numbers.get(tag, presumed) for tag, presumed in _ALIKE)


def _pixels(kind: _Kind) -> int:
    return kind[0] * kind[1]


def _size(kind: _Kind) -> str:
    return f"{kind[0]:,}x{kind[1]:,}"


def _is_whole(page: Directory) -> bool:
    """Return whether a page is a full image, neither marked as a reduced copy nor as a mask."""
    kind = page.numbers.get(_NEW_KIND, 0)
    return not kind & (_REDUCED | _MASK) and page.numbers.get(_OLD_KIND) != _OLD_REDUCED


def _in_one_directory(first: Directory, size: int) -> int:
    """Return the number of images under the single directory that ImageJ writes for a large stack."""
    said = _IMAGEJ.match(first.description)
    tell = first.numbers.get
    if said is None or tell(_COMPRESSION, 1) != 1:
        return 1
    each = tell(_WIDTH, 0) * tell(_HEIGHT, 0) * tell(_SAMPLES, 1) * tell(_BITS, 1) // 8
    number = int(said[1])  # programs that save one image of a stack may keep this number; the file's size shows it
    return number if each and tell(_OFFSET, size) + number * each <= size else 1
