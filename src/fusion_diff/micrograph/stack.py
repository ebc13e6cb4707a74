"""How many images a TIFF holds, so that nobody takes a verdict on the first for one on all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fusion_diff.micrograph.ifd import directories

if TYPE_CHECKING:
    from fusion_diff.micrograph.ifd import Directory
    from fusion_diff.micrograph.source import Source

_NEW_KIND, _OLD_KIND = 254, 255
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2  # values of these two tags
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOUR, _OFFSET, _SAMPLES, _FORMAT = 256, 257, 258, 259, 262, 273, 277, 339
_IMAGEJ = re.compile(rb"ImageJ=[^\n]*\n(?:.*\n)??images=(\d{1,9})\s")


def images_alike(source: Source) -> int:
    """Return how many images of a TIFF are of the first one's size and kind, that one included.

    Thumbnails, the levels of a pyramid and masks are of other sizes, or say that they are such.

    Raises:
        MicrographError: its directories are damaged.
    """
    pages = directories(source.name, source.handle, source.size)
    first = next(pages, None)
    if first is None:
        return 1
    return max(1 + sum(_like(first, page) for page in pages), _in_one_directory(first, source.size))


def _like(first: Directory, page: Directory) -> bool:
    kind = page.numbers.get(_NEW_KIND, 0)
    if kind & (_REDUCED | _MASK) or page.numbers.get(_OLD_KIND) == _OLD_REDUCED:
        return False
    defaults = {_BITS: 1, _SAMPLES: 1, _FORMAT: 1}
    return all(
        first.numbers.get(tag, defaults.get(tag)) == page.numbers.get(tag, defaults.get(tag))
        for tag in (_WIDTH, _HEIGHT, _BITS, _COLOUR, _SAMPLES, _FORMAT)
    )


def _in_one_directory(first: Directory, size: int) -> int:
    """Return how many images lie one after another under the one directory that ImageJ writes for a large stack."""
    said = _IMAGEJ.match(first.description)
    tell = first.numbers.get
    if said is None or tell(_COMPRESSION, 1) != 1:
        return 1
    each = tell(_WIDTH, 0) * tell(_HEIGHT, 0) * tell(_SAMPLES, 1) * tell(_BITS, 1) // 8
    number = int(said[1])  # kept by programs that saved one image of a stack, which shows by the file's size
    return number if each and tell(_OFFSET, size) + number * each <= size else 1
