"""Reading of a micrograph from a file. The first bytes determine the format."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from fusion_diff.dependencies import install
from fusion_diff.errors import MicrographError, TrustError
from fusion_diff.micrograph import storage
from fusion_diff.micrograph.databar import claimed_rows, data_bar_rows
from fusion_diff.micrograph.limits import check_strip, checked_limit, refusal
from fusion_diff.micrograph.micrograph import GIVEN, Micrograph, checked_page, checked_pixel_size
from fusion_diff.micrograph.raster import read_bmp, read_jpeg, read_png
from fusion_diff.micrograph.source import Source, open_source
from fusion_diff.micrograph.stack import PageChoice, choose_page
from fusion_diff.micrograph.tiff import read_tiff
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fusion_diff.micrograph.calibration import PixelCalibration

_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two are BigTIFF

_CLIPPED_SHARE = 0.1
"""Share of pixels at one end of the levels above which a note says so. In 3 of 680 real micrographs it is so large."""
_CLIPPED_SAMPLE = 2**20

_SINGLE_PAGE: tuple[tuple[bytes, str, Callable[[Source, int], tuple[NDArray[Any], PixelCalibration]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG", read_png),
    (b"\xff\xd8\xff", "JPEG", read_jpeg),
    (b"BM", "BMP", read_bmp),
)

_LFS = b"version https://"
"""Start of the text that stands for a file which Git LFS keeps elsewhere, as after a checkout without it."""

# Unsupported formats that the error message names.
_OTHERS = (
    (b"GIF8", "a GIF file"),
    (b"RIFF", "a RIFF file (WebP or AVI)"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 file"),
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x00\x00\x00\x03", "a DigitalMicrograph file"),
    (b"\x00\x00\x00\x04", "a DigitalMicrograph file"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)


def load_microstructure_data(
    path: str | os.PathLike[str],
    *,
    pixel_size_um: float | None = None,
    page: SupportsIndex | None = None,
    crop_data_bar: bool = True,
    max_pixels: int | None = None,
    sha256: str | None = None,
) -> Micrograph:
    """Read a micrograph from a TIFF, PNG, JPEG or BMP.

    The content determines the format; the suffix is ignored. The bit depth is kept. Grey and colour images are read.
    Alpha is dropped, palettes are converted to colours, and MinIsWhite TIFFs are inverted so that high is bright. An
    orientation in the file is not applied; a note says so.

    The micrograph does not depend on the file afterwards. Files of more than 32 MiB are copied to a temporary file in
    TMPDIR. A large uncompressed TIFF is mapped into memory from this copy; other large images are decoded to a second
    temporary file.

    TIFFs may be uncompressed or compressed by LZW, deflate, PackBits, Zstandard, LZMA, JPEG, JPEG 2000 or PNG.

    Args:
        path: the file; `~` stands for the home folder.
        pixel_size_um: side of a pixel in µm; overrides the metadata. A note says where they differ by more than 1 %.
        page: page of a multi-page TIFF, from 0. None takes the first page, or the largest if the first is a thumbnail
            (marked as a reduced copy, or with at most a quarter of the pixels). A warning and a note report other
            pages that are at least as large.
        crop_data_bar: remove the information bar that electron microscopes write below the image, if one is found.
        max_pixels: maximum number of pixels according to the header, checked before anything is decoded; `MAX_PIXELS`
            if None.
        sha256: expected digest of the bytes of a signed file, compared before anything is decoded.

    Returns:
        The micrograph, with the pixel size and instrument from the metadata: those of Thermo/FEI, Zeiss, Olympus SIS,
        TVIPS, OME-XML and ImageJ, and plain resolution tags (also in PNG, JPEG and BMP) if they give less than 25 µm,
        because the usual dots per inch are meant for print. Pixels that are not square get the geometric mean of their
        sides, up to a ratio of 2:1.

    Raises:
        MicrographError: the file is missing, empty, truncated, damaged, too large, no image, or of an unsupported
            kind; a side is under `MIN_SIDE`; the pixels have no contrast, are not finite, or are neither grey nor
            colour; or an argument is out of range. The message names the file and the cure.
        TrustError: the bytes do not have the digest `sha256`.
    """
    with open_source(path) as source:
        if sha256 is not None and source.sha256 != sha256:
            raise TrustError(f"{source.name}: it was altered after it was signed; restore it from its source")
        choice = (
            choose_page(source)
            if page is None and _head(source).startswith(_TIFF_MAGIC)
            else PageChoice(checked_page(source.name, page or 0))
        )
        limit, given = checked_limit(source.name, max_pixels), checked_pixel_size(source.name, pixel_size_um)
        levels, calibration = read_levels(source, choice.page, limit)
        size = calibration.pixel_size_um if given is None else given
        notes = calibration.notes(given) + choice.notes
        if choice.cure:
            warn(f"{source.name}: {' '.join(choice.notes)} {choice.cure}")
        claimed = claimed_rows(levels.shape[0], calibration.true_height) if crop_data_bar else 0
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused at the end
            rows = data_bar_rows(levels, calibration.true_height) if crop_data_bar else 0
            levels = levels[: levels.shape[0] - rows]
            check_strip(source.name, levels.shape[0], levels.shape[1], limit)
            clipped = _clipped(levels)
        if claimed not in (0, rows):
            notes += (
                f"Its metadata claim that the lowest {claimed:,} rows are a data bar, but they do not look like one.",
            )
        if rows:
            notes += (f"A data bar of {rows:,} rows was cropped from the bottom.",)
        return Micrograph(
            levels=levels,
            name=source.name,
            sha256=source.sha256,
            source=source.path,
            pixel_size_um=size,
            pixel_size_source=None if size is None else calibration.size_source if given is None else GIVEN,
            pixel_aspect=calibration.aspect if given is None else 1.0,
            instrument=calibration.instrument,
            data_bar_px=rows,
            notes=notes + clipped,
            page=choice.page if page is not None or choice.page else None,
        )


def _clipped(levels: NDArray[Any]) -> tuple[str, ...]:
    """Return notes on large shares of pixels at the highest and at the lowest level of a sample."""
    sample = storage.sampled(levels, max(1, math.isqrt(levels.shape[0] * levels.shape[1] // _CLIPPED_SAMPLE)))
    notes = []
    for level in dict.fromkeys((sample.max(), sample.min())):
        there = sample == level
        share = float((there if there.ndim == 2 else there.all(axis=2)).mean())
        if share > _CLIPPED_SHARE:
            notes.append(f"{100 * share:.3g} % of its pixels are at one level, {level:g}, where differences are lost.")
    return tuple(notes)


def _head(source: Source) -> bytes:
    source.handle.seek(0)
    return source.handle.read(16)


def read_levels(source: Source, page: int, max_pixels: int) -> tuple[NDArray[Any], PixelCalibration]:
    """Decode an open file. Return its levels at full depth, unchecked, and its metadata."""
    head = _head(source)
    if head.startswith(_TIFF_MAGIC):
        return _guarded(source, "TIFF", partial(read_tiff, source, page, max_pixels))
    for magic, kind, read in _SINGLE_PAGE:
        if head.startswith(magic):
            if page > 0:
                raise refusal(source.name, f"a {kind} has 1 page, so there is no page {page}", "choose page 0")
            return _guarded(source, kind, partial(read, source, max_pixels))
    if head.startswith(_LFS):
        raise refusal(source.name, "the file is what Git LFS leaves in place of it", "fetch it with `git lfs pull`")
    kind = next((kind for magic, kind in _OTHERS if head.startswith(magic)), "not an image of a supported format")
    raise refusal(source.name, f"the file is {kind}", "export the image as TIFF or PNG, at full bit depth")


def _guarded(
    source: Source, kind: str, read: Callable[[], tuple[NDArray[Any], PixelCalibration]]
) -> tuple[NDArray[Any], PixelCalibration]:
    """Convert any error of a decoder into a MicrographError."""
    try:
        return read()
    except MicrographError:
        raise
    except MemoryError as error:
        raise refusal(source.name, "not enough memory to decode it", "crop it, or free memory and try again") from error
    except Exception as error:  # decoders of hostile bytes may fail in any way
        said = printable(error, 200) or type(error).__name__
        if isinstance(error, ImportError) or "imagecodecs" in said:  # a slim installation may lack it
            raise refusal(
                source.name,
                f"reading this kind of {kind} needs a package that is not installed ({said})",
                f"{install('imagecodecs', 'pillow', extra='images')}, or save it as an uncompressed TIFF",
            ) from error
        raise refusal(
            source.name,
            f"the {kind} is truncated, damaged or of an unsupported kind ({said})",
            "copy it again, or open it in the program that made it and export it as TIFF or PNG",
        ) from error
