"""Pixel size, instrument and true image height from a file's metadata.

Metadata never prevent a file from being read: missing, malformed or implausible values become None. A file can hold the
formats of several makers. The one closest to the instrument takes precedence, in the order of `_TIFF_READERS`.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_diff.micrograph.calibration import (
    INCH_UM,
    PixelCalibration,
    instrument_name,
    micrometres,
    pixel_sides,
)
from fusion_diff.micrograph.ome import from_ome
from fusion_diff.printable import printable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

PRINT_LIMIT_UM = 25.0
"""Pixel size below which plain resolution tags are used.

Image programs write 72, 96, 150, 300 or 600 dots per inch (353 to 42 µm) for printing, unrelated to the specimen. 25 µm
is about 1,000 dots per inch, the lower end of scanners and calibrated cameras.
"""

_TAGS = "resolution tags"
_ORIENTATION = 274  # the tag, of a TIFF or of EXIF data, that says how the image is to be turned when it is shown
_CHUNKS = 2**20  # of a PNG, that are searched; a longer chain of empty chunks would take minutes
_HEADER_BYTES = 2**20  # of any other text or table; instruments write less than 50 KB
_ZEISS_LINES = 2**13  # instruments write less than 1,000; tifffile takes time by the square of their number


def from_dots(dots: Any) -> PixelCalibration:
    """Return the calibration from Pillow's `dpi` entry, (horizontal, vertical) in dots per inch."""
    try:
        x, y = (INCH_UM / float(value) for value in dots)
        return PixelCalibration(_unless_print(pixel_sides(x, y)), _TAGS)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return PixelCalibration()


def png_chunk(data: bytes | mmap.mmap, kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind in the bytes of a PNG; empty if there is none.

    Of the chunks after the pixels only eXIf is found: all others of interest have to be before them.
    """
    position = 8
    for _ in range(_CHUNKS):
        if position + 8 > len(data):
            break
        length, found = struct.unpack_from(">I4s", data, position)
        if found == kind:
            return data[position + 8 : position + 8 + min(length, _HEADER_BYTES)]
        if found == b"IDAT" and kind != b"eXIf":
            break
        position += length + 12
    return b""


def from_png(data: bytes | mmap.mmap) -> PixelCalibration:
    """Return the calibration from the pHYs and eXIf chunks of a PNG, given the file's bytes."""
    orientation = exif_orientation(png_chunk(data, b"eXIf"))
    chunk = png_chunk(data, b"pHYs")
    if len(chunk) >= 9:
        x, y, unit = struct.unpack_from(">IIB", chunk)
        if unit == 1 and x and y:  # pixels per metre
            return PixelCalibration(_unless_print(pixel_sides(1e6 / x, 1e6 / y)), _TAGS, orientation=orientation)
    return PixelCalibration(orientation=orientation)


def exif_orientation(data: bytes) -> int:
    """Return the orientation in EXIF data; 1, as stored, where they are malformed or have none."""
    data = data.removeprefix(b"Exif\0\0")
    order = ">" if data.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(order + "4xI", data)
        for place in range(struct.unpack_from(order + "H", data, start)[0]):
            code, kind, value = struct.unpack_from(order + "HH4xH", data, start + 2 + 12 * place)
            if (code, kind) == (_ORIENTATION, 3):
                return int(value)
    except struct.error:
        pass
    return 1


def from_tiff(tif: Any, page: Any) -> PixelCalibration:
    """Return the calibration of a page of an open TIFF. Malformed metadata do not raise.

    Args:
        tif: the `tifffile.TiffFile`; makers' metadata are read from its first page, where makers put them.
        page: the `tifffile.TiffPage` to inspect.
    """
    found = PixelCalibration()
    for source, reader in _TIFF_READERS:
        try:
            one = reader(tif, page)
        except Exception:  # a parser of hostile text may fail in any way, and then gives no values
            continue
        if one is None:
            continue
        if found.pixel_size_um is None and one.sides_um is not None and not found.undecided:
            found = replace(found, sides_um=one.sides_um, size_source=source)
        found = replace(
            found,
            doubt=found.doubt or ("" if found.pixel_size_um is not None else one.doubt),
            undecided=found.undecided or (found.pixel_size_um is None and one.undecided),
            instrument=found.instrument or one.instrument,
            true_height=found.true_height if found.true_height is not None else one.true_height,
            orientation=one.orientation if found.orientation == 1 else found.orientation,
        )
    return found


def _unless_print(sides_um: tuple[float, float] | None) -> tuple[float, float] | None:
    return sides_um if sides_um is not None and math.sqrt(math.prod(sides_um)) < PRINT_LIMIT_UM else None


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
        return PixelCalibration(instrument=instrument, doubt=_of_another_width("Thermo/FEI", columns, page))
    size = None
    for name in ("Scan", "EScan", "IScan"):
        scan = sections.get(name, {})
        if size is None and "PixelWidth" in scan:
            size = pixel_sides(_metres(scan.get("PixelWidth")), _metres(scan.get("PixelHeight")))
    return PixelCalibration(size, instrument=instrument, true_height=rows if isinstance(rows, int) else None)


def _of_another_width(maker: str, columns: Any, page: Any) -> str:
    width = printable(str(columns), 20)
    return (
        f"The {maker} metadata are of an image {width} pixels wide, but it has {page.imagewidth}: it was resampled or "
        "cropped since"
    )


def _zeiss(tif: Any, page: Any) -> PixelCalibration | None:
    # Zeiss SEM: lines keyed by parameter name, each (label, value, unit). The fourth of the unnamed numbers is metres
    # per pixel.
    if not _few_lines(tif, 34118) or not (parameters := tif.sem_metadata):
        return None
    instrument = instrument_name("Zeiss SEM", str(parameters.get("sv_serial_number", ("", ""))[1]))
    stored = re.fullmatch(r"(\d{1,6}) ?\* ?(\d{1,6})", str(parameters.get("dp_image_store", ("", ""))[1]).strip())
    if stored and int(stored[1]) != page.imagewidth:
        return PixelCalibration(instrument=instrument, doubt=_of_another_width("Zeiss SEM", int(stored[1]), page))
    size = None
    for key in ("ap_image_pixel_size", "ap_pixel_size"):
        entry = parameters.get(key, ())
        if size is None and len(entry) == 3 and (unit := micrometres(entry[2])) is not None:
            size = pixel_sides(float(entry[1]) * unit, None)
    unnamed = parameters.get("", ())
    if size is None and len(unnamed) > 3:
        size = pixel_sides(_metres(unnamed[3]), None)
    return PixelCalibration(size, instrument=instrument, true_height=int(stored[2]) if stored else None)


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
    size = pixel_sides(_metres(values.get("pixelsizex")), _metres(values.get("pixelsizey")))
    return PixelCalibration(size, instrument=instrument_name("Olympus SIS", values.get("cameraname")))


def _tvips(tif: Any, page: Any) -> PixelCalibration | None:
    # TVIPS EM-MENU, version 2: nanometres per pixel at the specimen.
    if not _small_enough(tif.pages.first, 37706) or not (values := tif.tvips_metadata):
        return None
    size = pixel_sides(_scaled(values.get("PixelSizeX"), 1e-3), _scaled(values.get("PixelSizeY"), 1e-3))
    return PixelCalibration(size, instrument=instrument_name("TVIPS", values.get("TemType"), values.get("CameraType")))


def _ome(tif: Any, page: Any) -> PixelCalibration | None:
    text = tif.ome_metadata
    if not isinstance(text, str):
        return None
    return from_ome(text, page.index, page.imagewidth, page.imagelength, page.samplesperpixel)


def _imagej(tif: Any, page: Any) -> PixelCalibration | None:
    # ImageJ: the unit is in the description, and the resolution tags hold pixels per unit.
    text = tif.pages.first.imagej_description
    if text is None or len(text) > _HEADER_BYTES:
        return None
    unit = micrometres((tif.imagej_metadata or {}).get("unit"))
    if unit is None or unit == INCH_UM:  # ImageJ passes on print resolutions in inches
        return None
    x, y = (_per_pixel(page, code) for code in (282, 283))
    return PixelCalibration(pixel_sides(_scaled(x, unit), _scaled(y, unit)))


def _resolution(tif: Any, page: Any) -> PixelCalibration | None:
    unit = {2: INCH_UM, 3: 1e4}.get(int(page.tags.valueof(296, default=2)))
    maker = instrument_name(*(page.tags.valueof(code) for code in (271, 272) if _small_enough(page, code)))
    if unit is None:  # no absolute unit
        return PixelCalibration(instrument=maker)
    x, y = (_per_pixel(page, code) for code in (282, 283))
    return PixelCalibration(_unless_print(pixel_sides(_scaled(x, unit), _scaled(y, unit))), instrument=maker)


def _shown(tif: Any, page: Any) -> PixelCalibration | None:
    return PixelCalibration(orientation=int(page.tags.valueof(_ORIENTATION, default=1)))


def _per_pixel(page: Any, code: int) -> float | None:
    numerator, denominator = page.tags.valueof(code, default=(0, 0))
    return float(denominator) / float(numerator) if numerator else None


def _scaled(value: Any, factor: float) -> float | None:
    return float(value) * factor if isinstance(value, int | float) else None


def _metres(value: Any) -> float | None:
    return _scaled(value, 1e6)


_TIFF_READERS: tuple[tuple[str, Callable[[Any, Any], PixelCalibration | None]], ...] = (
    ("Thermo/FEI metadata", _fei),
    ("Zeiss SEM metadata", _zeiss),
    ("Olympus SIS metadata", _olympus),
    ("TVIPS metadata", _tvips),
    ("OME metadata", _ome),
    ("ImageJ metadata", _imagej),
    (_TAGS, _resolution),
    ("", _shown),
)
