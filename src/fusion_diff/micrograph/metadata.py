"""Pixel size, instrument and true image height from a file's metadata.

Metadata never prevent a file from being read: missing, malformed or implausible values become None. A file can hold the
formats of several makers. The one closest to the instrument takes precedence, in the order of `_TIFF_READERS`.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import XMLParser

from fusion_diff.printable import printable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

PRINT_LIMIT_UM = 25.0
"""Pixel size below which plain resolution tags are used.

Image programs write 72, 96, 150, 300 or 600 dots per inch (353 to 42 µm) for printing, unrelated to the specimen. 25 µm
is about 1,000 dots per inch, the lower end of scanners and calibrated cameras.
"""

_SMALLEST_UM, _LARGEST_UM = 1e-6, 1e4  # 1 pm to 1 cm; values outside have a wrong unit
_LARGEST_ANISOTROPY = 2.0
_SQUARE = 1.01  # largest ratio of sides of a square pixel, allowing for rounded resolutions
_METADATA_BYTES = 2**24  # of OME-XML, which lists every plane, and of the chunks of a PNG
_HEADER_BYTES = 2**20  # of any other text or table; instruments write less than 50 KB
_ZEISS_LINES = 2**13  # instruments write less than 1,000; tifffile takes time by the square of their number
_NAME_CHARACTERS = 120

_UNITS_UM = {
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), 1e-3),
    **dict.fromkeys(("å", "angstrom", "ångström"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("in", "inch", "inches"), 25_400.0),
}


@dataclass(frozen=True)
class PixelCalibration:
    """Metadata of an image; None where the file does not give them."""

    sides_um: tuple[float, float] | None = None
    """Width and height of a pixel."""
    instrument: str | None = None
    true_height: int | None = None
    """Rows of micrograph. The rows below are a data bar."""
    transparent: float = 0.0
    """Share of pixels that are not opaque according to the alpha channel, which is dropped."""

    @property
    def pixel_size_um(self) -> float | None:
        """One pixel size for both sides; None if they are unknown or too far from square."""
        return None if self.sides_um is None else square_pixel(*self.sides_um)

    def notes(self, *, of_size: bool) -> tuple[str, ...]:
        """Return sentences on how values differ from those in the file.

        Args:
            of_size: whether the pixel size is taken from the file; False if the user gave one.
        """
        lines = []
        if of_size and self.sides_um is not None and max(self.sides_um) > _SQUARE * min(self.sides_um):
            sides, size = " by ".join(f"{side:.4g}" for side in self.sides_um), self.pixel_size_um
            taken = "too far from square, so the pixel size is unknown; resample to square pixels, or give a pixel size"
            if size is not None:
                taken = f"not square; {size:.4g} µm is used for both sides, so areas are right but lengths are not"
            lines.append(f"Its pixels are {sides} µm, {taken}.")
        if self.transparent:
            share = max(0.1, 100 * self.transparent)
            lines.append(f"{share:.3g} % of its pixels are fully or partly transparent; the alpha channel was dropped.")
        return tuple(lines)


def micrometres(unit: Any) -> float | None:
    """Return the length of a unit in µm, or None if it is no unit of length."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes the micro sign, because TIFF texts are ASCII.
    name = re.sub(r"\\u00b5", "µ", unit.strip().strip("\x00"), flags=re.IGNORECASE).lower()
    return _UNITS_UM.get(name)


def square_pixel(x_um: float | None, y_um: float | None) -> float | None:
    """Return one pixel size for pixels of `x_um` by `y_um`.

    This is the geometric mean, which keeps areas right. Beyond a ratio of 2:1 (a tilted section saved without
    correction, or a typing error) it is None.
    """
    sides = _sides(x_um, y_um)
    if sides is None or max(sides) / min(sides) > _LARGEST_ANISOTROPY:
        return None
    return math.exp(sum(map(math.log, sides)) / 2)


def _sides(x_um: float | None, y_um: float | None) -> tuple[float, float] | None:
    """Return the plausible sides of a pixel. If only one is plausible, it is used for both."""
    sizes = [size for size in (_plausible(x_um), _plausible(y_um)) if size is not None]
    return (sizes[0], sizes[-1]) if sizes else None


def from_dots(dots: Any) -> PixelCalibration:
    """Return the calibration from Pillow's `dpi` entry, (horizontal, vertical) in dots per inch."""
    try:
        x, y = (25_400.0 / float(value) for value in dots)
        return PixelCalibration(_unless_print(_sides(x, y)))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return PixelCalibration()


def png_chunk(data: bytes | mmap.mmap, kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind in the bytes of a PNG; empty if there is none.

    Only chunks before the pixels are searched.
    """
    position = 8
    while position + 8 <= min(len(data), _METADATA_BYTES):  # a longer chain of empty chunks would take minutes
        length, found = struct.unpack_from(">I4s", data, position)
        if found == kind:
            return data[position + 8 : position + 8 + min(length, _METADATA_BYTES)]
        if found == b"IDAT":
            break
        position += length + 12
    return b""


def from_png(data: bytes | mmap.mmap) -> PixelCalibration:
    """Return the calibration from the pHYs chunk of a PNG, given the file's bytes."""
    chunk = png_chunk(data, b"pHYs")
    if len(chunk) >= 9:
        x, y, unit = struct.unpack_from(">IIB", chunk)
        if unit == 1 and x and y:  # pixels per metre
            return PixelCalibration(_unless_print(_sides(1e6 / x, 1e6 / y)))
    return PixelCalibration()


def from_tiff(tif: Any, page: Any) -> PixelCalibration:
    """Return the calibration of a page of an open TIFF. Malformed metadata do not raise.

    Args:
        tif: the `tifffile.TiffFile`; makers' metadata are read from its first page, where makers put them.
        page: the `tifffile.TiffPage` to inspect.
    """
    found = PixelCalibration()
    for reader in _TIFF_READERS:
        try:
            one = reader(tif, page)
        except Exception:  # a parser of hostile text may fail in any way, and then gives no values
            continue
        if one is None:
            continue
        found = replace(
            found,
            sides_um=found.sides_um if found.pixel_size_um is not None else one.sides_um or found.sides_um,
            instrument=found.instrument or one.instrument,
            true_height=found.true_height if found.true_height is not None else one.true_height,
        )
    return found


def _plausible(size_um: float | None) -> float | None:
    if size_um is None or not math.isfinite(size_um) or not _SMALLEST_UM <= size_um <= _LARGEST_UM:
        return None
    return float(size_um)


def _unless_print(sides_um: tuple[float, float] | None) -> tuple[float, float] | None:
    return sides_um if sides_um is not None and math.sqrt(math.prod(sides_um)) < PRINT_LIMIT_UM else None


def instrument_name(*parts: Any) -> str | None:
    """Join the parts of an instrument's name that are texts, in printable characters and with bounded length."""
    starts = [part[: 10 * _NAME_CHARACTERS] for part in parts if isinstance(part, str)]  # before it is copied
    texts = [printable(" ".join(start.split())) for start in starts]
    return " ".join(text for text in texts if text)[:_NAME_CHARACTERS].strip() or None


def _small_enough(page: Any, *codes: int) -> bool:
    tags = [page.tags.get(code) for code in codes]
    return all(tag is None or tag.valuebytecount <= _HEADER_BYTES for tag in tags)


def _fei(tif: Any, page: Any) -> PixelCalibration | None:
    # Thermo Fisher / FEI: an INI text with lengths in metres. The bar is appended below ResolutionY rows.
    if not _small_enough(tif.pages.first, 34680, 34682) or not (sections := tif.fei_metadata):
        return None
    system = sections.get("System", {})
    instrument = instrument_name("Thermo/FEI", system.get("SystemType") or system.get("Type"))
    image = sections.get("Image", {})
    columns, rows = image.get("ResolutionX"), image.get("ResolutionY")
    if columns is not None and columns != page.imagewidth:
        return PixelCalibration(instrument=instrument)  # resampled since, so the lengths below do not apply
    size = None
    for name in ("Scan", "EScan", "IScan"):
        scan = sections.get(name, {})
        if size is None and "PixelWidth" in scan:
            size = _sides(_metres(scan.get("PixelWidth")), _metres(scan.get("PixelHeight")))
    return PixelCalibration(size, instrument, rows if isinstance(rows, int) else None)


def _zeiss(tif: Any, page: Any) -> PixelCalibration | None:
    # Zeiss SEM: lines keyed by parameter name, each (label, value, unit). The fourth of the unnamed numbers is metres
    # per pixel.
    if not _few_lines(tif, 34118) or not (parameters := tif.sem_metadata):
        return None
    instrument = instrument_name("Zeiss SEM", str(parameters.get("sv_serial_number", ("", ""))[1]))
    stored = re.fullmatch(r"(\d{1,6}) ?\* ?(\d{1,6})", str(parameters.get("dp_image_store", ("", ""))[1]).strip())
    if stored and int(stored[1]) != page.imagewidth:
        return PixelCalibration(instrument=instrument)  # resampled since, so the size below does not apply
    size = None
    for key in ("ap_image_pixel_size", "ap_pixel_size"):
        entry = parameters.get(key, ())
        if size is None and len(entry) == 3 and (unit := micrometres(entry[2])) is not None:
            size = _sides(float(entry[1]) * unit, None)
    unnamed = parameters.get("", ())
    if size is None and len(unnamed) > 3:
        size = _sides(_metres(unnamed[3]), None)
    return PixelCalibration(size, instrument, int(stored[2]) if stored else None)


def _few_lines(tif: Any, code: int) -> bool:
    tag = tif.pages.first.tags.get(code)
    if tag is None or tag.valuebytecount > _HEADER_BYTES:
        return False
    tif.filehandle.seek(tag.valueoffset)
    text = tif.filehandle.read(tag.valuebytecount).decode("utf-8", "replace")
    return len(text.splitlines()) <= _ZEISS_LINES


def _olympus(tif: Any, page: Any) -> PixelCalibration | None:
    # Olympus SIS: lengths in metres.
    if not _small_enough(tif.pages.first, 33471, 33560) or not (values := tif.sis_metadata):
        return None
    size = _sides(_metres(values.get("pixelsizex")), _metres(values.get("pixelsizey")))
    return PixelCalibration(size, instrument_name("Olympus SIS", values.get("cameraname")))


def _tvips(tif: Any, page: Any) -> PixelCalibration | None:
    # TVIPS EM-MENU, version 2: nanometres per pixel at the specimen.
    if not _small_enough(tif.pages.first, 37706) or not (values := tif.tvips_metadata):
        return None
    size = _sides(_scaled(values.get("PixelSizeX"), 1e-3), _scaled(values.get("PixelSizeY"), 1e-3))
    return PixelCalibration(size, instrument_name("TVIPS", values.get("TemType"), values.get("CameraType")))


def _ome(tif: Any, page: Any) -> PixelCalibration | None:
    text = tif.ome_metadata
    if not isinstance(text, str) or len(text) > _METADATA_BYTES:
        return None
    collector = _OmeCollector(page.imagewidth, page.imagelength)
    parser = XMLParser(target=collector)
    parser.feed(text)
    parser.close()
    return PixelCalibration(collector.sides_um, collector.instrument)


class _OmeCollector:
    """Collects the needed values while OME-XML is parsed, without a tree. Document types (and entities) are refused."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.sides_um: tuple[float, float] | None = None
        self.instrument: str | None = None

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        """Refuse a document type, as it can declare entities. OME-XML has none."""
        raise ValueError("OME-XML with a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Store the physical size of the first image of these dimensions, and the name of the first microscope."""
        kind = tag.rpartition("}")[2]
        if kind == "Pixels" and self.sides_um is None and self._same_size(attributes):
            self.sides_um = _sides(_ome_length(attributes, "X"), _ome_length(attributes, "Y"))
        elif kind == "Microscope" and self.instrument is None:
            self.instrument = instrument_name(attributes.get("Manufacturer"), attributes.get("Model"))

    def end(self, tag: str) -> None:
        """Do nothing: only attributes are needed."""

    def data(self, text: str) -> None:
        """Do nothing: only attributes are needed."""

    def close(self) -> None:
        """Do nothing: there is no tree to return."""

    def _same_size(self, attributes: dict[str, str]) -> bool:
        return (attributes.get("SizeX"), attributes.get("SizeY")) == (str(self.width), str(self.height))


def _ome_length(attributes: dict[str, str], axis: str) -> float | None:
    value = attributes.get(f"PhysicalSize{axis}")
    unit = micrometres(attributes.get(f"PhysicalSize{axis}Unit", "µm"))  # the default unit of the OME schema
    return None if value is None or unit is None else float(value) * unit


def _imagej(tif: Any, page: Any) -> PixelCalibration | None:
    # ImageJ: the unit is in the description, and the resolution tags hold pixels per unit.
    text = tif.pages.first.imagej_description
    if text is None or len(text) > _HEADER_BYTES:
        return None
    unit = micrometres((tif.imagej_metadata or {}).get("unit"))
    if unit is None or unit == _UNITS_UM["inch"]:  # ImageJ passes on print resolutions in inches
        return None
    x, y = (_per_pixel(page, code) for code in (282, 283))
    return PixelCalibration(_sides(_scaled(x, unit), _scaled(y, unit)))


def _resolution(tif: Any, page: Any) -> PixelCalibration | None:
    unit = {2: _UNITS_UM["inch"], 3: _UNITS_UM["cm"]}.get(int(page.tags.valueof(296, default=2)))
    maker = instrument_name(*(page.tags.valueof(code) for code in (271, 272) if _small_enough(page, code)))
    if unit is None:  # no absolute unit
        return PixelCalibration(instrument=maker)
    x, y = (_per_pixel(page, code) for code in (282, 283))
    return PixelCalibration(_unless_print(_sides(_scaled(x, unit), _scaled(y, unit))), maker)


def _per_pixel(page: Any, code: int) -> float | None:
    numerator, denominator = page.tags.valueof(code, default=(0, 0))
    return float(denominator) / float(numerator) if numerator else None


def _scaled(value: Any, factor: float) -> float | None:
    return float(value) * factor if isinstance(value, int | float) else None


def _metres(value: Any) -> float | None:
    return _scaled(value, 1e6)


_TIFF_READERS: tuple[Callable[[Any, Any], PixelCalibration | None], ...] = (
    _fei,
    _zeiss,
    _olympus,
    _tvips,
    _ome,
    _imagej,
    _resolution,
)
