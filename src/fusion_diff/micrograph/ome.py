"""Pixel size of a page of an OME-TIFF, whose XML may describe several images.

Source: the OME model, https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html.
"""

from __future__ import annotations

from xml.parsers.expat import ParserCreate

from fusion_diff.micrograph.calibration import PixelCalibration, instrument_name, micrometres, pixel_sides

_Sides = tuple[float, float] | None
_IDENTIFIER = 200  # characters of a file's identifier that are compared
_CHARACTERS = 2**24  # of a text that is parsed; it lists every plane
_PIECE = 2**19  # characters parsed at a time; each has a "<", because a tag is parsed as a whole, in 50 times its size
_MOST = 10_000  # different names, and elements within each other; microscopy programs write some 300 and 10


def from_ome(text: str, page: int, width: int, height: int, samples: int) -> PixelCalibration:
    """Return the calibration of a page from OME-XML.

    Of the images with the page's dimensions, the one counts whose `TiffData` name the page, or all where none does. If
    they differ in their pixel sizes, the size is unknown.

    Args:
        text: the XML.
        page: index of the page in the file, from 0.
        width: its columns.
        height: its rows.
        samples: its samples per pixel.

    Raises:
        Exception: the text is malformed, or has a document type.
    """
    collector = _Collector(page, width, height, samples)
    try:
        _parse(text, collector)
    except _TooMuchError:
        return PixelCalibration(doubt="The OME metadata are far longer than those of any program, and were not read")
    sizes, doubt = collector.claiming or collector.fitting, ""
    if len(sizes) > 1:
        doubt = "The OME metadata have images of its dimensions whose pixel sizes differ, and do not say which it is"
    elif not sizes and collector.sized:
        doubt = f"The OME metadata have no image of {width}x{height} pixels"
    return PixelCalibration(
        next(iter(sizes)) if len(sizes) == 1 else None,
        doubt=doubt,
        undecided=len(sizes) > 1,
        instrument=collector.instrument,
    )


class _TooMuchError(ValueError):
    """A text that would take much memory to parse."""


def _parse(text: str, collector: _Collector) -> None:
    """Parse a text in bounded memory. Namespaces are left as they are: expanded, each name takes the memory of its own.

    Raises:
        Exception: as `from_ome`.
        _TooMuchError: it is too long, or too intricate.
    """
    starts = range(0, len(text), _PIECE)
    if len(text) > _CHARACTERS or any(text.find("<", start, start + _PIECE) < 0 for start in starts[:-1]):
        raise _TooMuchError
    parser = ParserCreate()
    parser.StartDoctypeDeclHandler = collector.doctype
    parser.StartElementHandler = collector.start
    parser.CharacterDataHandler = collector.data
    parser.EndElementHandler = collector.end
    for start in starts:
        parser.Parse(text[start : start + _PIECE])
    parser.Parse("", True)


class _Collector:
    """Collects the needed values while OME-XML is parsed, without a tree. Document types (and entities) are refused.

    Attributes:
        fitting: pixel sizes of the images with the page's dimensions.
        claiming: those of them to which the page belongs.
        sized: whether any image has a pixel size.
        instrument: name of the first microscope.
    """

    def __init__(self, page: int, width: int, height: int, samples: int) -> None:
        self.fitting: set[_Sides] = set()
        self.claiming: set[_Sides] = set()
        self.sized = False
        self.instrument: str | None = None
        self._page, self._dimensions, self._samples = page, (str(width), str(height)), samples
        self._file: str | None = None  # identifier of this file
        self._named: str | None = None  # that of the file that holds the pages, if it is told; it comes in parts
        self._sides: _Sides = None  # of the image
        self._fits = self._listed = False  # whether the image has the page's dimensions; whether it lists its pages
        self._planes, self._pages = 0, range(0)
        self._next = 0  # first page of an image that lists none: they follow each other
        self._names: set[str] = set()
        self._depth = 0

    def doctype(self, *_: object) -> None:
        """Refuse a document type, as it can declare entities. OME-XML has none."""
        raise ValueError("OME-XML with a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Note the size of an image, its pages, and the name of the first microscope.

        Raises:
            _TooMuchError: there are too many names, or elements within each other.
        """
        self._names.add(tag)
        self._names.update(attributes)
        self._depth += 1
        if max(len(self._names), self._depth) > _MOST:
            raise _TooMuchError
        kind = tag.rpartition(":")[2]
        if kind == "OME":
            self._file = attributes.get("UUID")
        elif kind == "Pixels":
            self._start_image(attributes)
        elif kind == "TiffData":
            first = int(attributes.get("IFD", 0))
            planes = attributes.get("PlaneCount", 1 if "IFD" in attributes else self._planes)
            self._listed, self._pages, self._named = True, range(first, first + int(planes)), None
        elif kind == "UUID":
            self._named = ""
        elif kind == "Microscope" and self.instrument is None:
            self.instrument = instrument_name(attributes.get("Manufacturer"), attributes.get("Model"))

    def _start_image(self, attributes: dict[str, str]) -> None:
        self._sides = pixel_sides(_length(attributes, "X"), _length(attributes, "Y"))
        self._fits = (attributes.get("SizeX"), attributes.get("SizeY")) == self._dimensions
        z, channels, t = (int(attributes.get(f"Size{axis}", 1)) for axis in "ZCT")
        self._planes, self._listed = z * t * max(1, channels // self._samples), False
        self.sized = self.sized or self._sides is not None
        if self._fits:
            self.fitting.add(self._sides)

    def data(self, text: str) -> None:
        """Note the identifier of a file."""
        if self._named is not None:
            self._named = (self._named + text)[:_IDENTIFIER]

    def end(self, tag: str) -> None:
        """Note whether the page is among those that were listed."""
        self._depth -= 1
        kind = tag.rpartition(":")[2]
        if kind == "TiffData" and (self._named is None or self._named.strip() == self._file):
            self._claim(self._pages)
        elif kind == "Pixels" and not self._listed:
            self._claim(range(self._next, self._next + self._planes))
            self._next += self._planes

    def _claim(self, pages: range) -> None:
        if self._fits and self._page in pages:
            self.claiming.add(self._sides)


def _length(attributes: dict[str, str], axis: str) -> float | None:
    value = attributes.get(f"PhysicalSize{axis}")
    unit = micrometres(attributes.get(f"PhysicalSize{axis}Unit", "µm"))  # the default unit of the OME schema
    return None if value is None or unit is None else float(value) * unit
