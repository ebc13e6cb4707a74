"""Reading of PNG, JPEG and BMP files at full depth, after checks of their headers."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.micrograph import storage
from fusion_diff.micrograph.calibration import PixelCalibration, instrument_name
from fusion_diff.micrograph.codestream import check_jpeg
from fusion_diff.micrograph.limits import check_claim, check_decoded, check_expansion, refusal, truncated
from fusion_diff.micrograph.metadata import exif_orientation, from_dots, from_png, png_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.micrograph.source import Source

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey + alpha, RGB + alpha
_PNG_PALETTE = 3
_PNG_KEYED = (0, 2)  # colour types one colour of which may be transparent
_DEFLATE_EXPANSION = 1032
_JPEG_EXPANSION = 4096  # a progressive scan spends at least one bit on a block of 64, in each of three channels
_BMP_RUN_EXPANSION = 128
_PALETTE_BYTES, _JPEG_BYTES, _BMP_BYTES = 8, 10, 8
"""Maximum memory of the decoders per pixel: its colours and a copy; for a JPEG also the coefficients of all scans."""
_EXIF_MAKE, _EXIF_MODEL = 271, 272


def read_png(source: Source, max_pixels: int) -> tuple[NDArray[Any], PixelCalibration]:
    """Read a PNG of 1 to 16 bits, grey, colour or palette. Alpha is dropped.

    Args:
        source: the open file.
        max_pixels: maximum number of pixels.

    Returns:
        The stored levels, uint8 or uint16, (H, W) or (H, W, 3), and what its pHYs and eXIf chunks say, if any.

    Raises:
        MicrographError: the image is too large, too small or truncated.
    """
    import imagecodecs

    data = source.data()
    try:
        width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    except struct.error as error:
        raise truncated(source.name, f"it ends within its header, after {source.size} bytes") from error
    channels = _PNG_CHANNELS.get(colour, 0)
    raw = check_claim(source.name, width, height, channels, depth, max_pixels)
    check_expansion(source.name, raw, source.size, _DEFLATE_EXPANSION)
    if colour == _PNG_PALETTE:
        check_decoded(source.name, width * height, _PALETTE_BYTES)
    if width * height * channels * max(1, depth // 8) > storage.IN_MEMORY_BYTES and colour != _PNG_PALETTE:
        if colour in _PNG_KEYED and len(png_chunk(data, b"tRNS")) == 2 * channels:
            channels += 1  # the decoder makes an alpha channel for the transparent colour
        shape = (height, width) if channels == 1 else (height, width, channels)
        levels = imagecodecs.png_decode(data, out=storage.allocate(shape, np.uint16 if depth == 16 else np.uint8))
    else:
        levels = imagecodecs.png_decode(data)
    transparent = 0.0
    if levels.ndim == 3:
        if levels.shape[2] in (2, 4):
            transparent = storage.share_below(levels[..., -1], np.iinfo(levels.dtype).max)
        levels = levels[..., 0] if levels.shape[2] == 2 else levels[..., :3]
    if colour == _PNG_PALETTE:
        levels = _grey_where_equal(levels)
    elif depth < 8:  # the decoder stretches these to 0..255
        levels = storage.mapped(levels, lambda band: band // (255 // (2**depth - 1)))
    return levels, replace(from_png(data), transparent=transparent)


def read_jpeg(source: Source, max_pixels: int) -> tuple[NDArray[Any], PixelCalibration]:
    """Read a grey or colour JPEG. An orientation in its EXIF data is not applied, as in microscopy programs.

    Args:
        source: the open file.
        max_pixels: maximum number of pixels.

    Returns:
        uint8 (H, W) or (H, W, 3), and the pixel size, camera and orientation in its header, if given.

    Raises:
        MicrographError: the image is too large, too small, truncated or CMYK, or has too many scans or segments.
    """
    # Pillow detects truncated files; libjpeg alone silently fills the missing part with grey. Pillow's classes are
    # opened directly, because Image.open adds its own size limit, which is global to the process.
    from PIL.JpegImagePlugin import JpegImageFile

    check_jpeg(source.name, source.data())
    source.handle.seek(0)
    with JpegImageFile(source.handle) as image:
        if image.mode not in ("L", "RGB"):
            raise refusal(
                source.name, f"its colours are {image.mode}, neither grey nor RGB", "convert it to grey or RGB and save"
            )
        channels = len(image.getbands())
        raw = check_claim(source.name, image.width, image.height, channels, 8, max_pixels)
        check_expansion(source.name, raw, source.size, _JPEG_EXPANSION)
        check_decoded(source.name, image.width * image.height, _JPEG_BYTES)
        levels = np.asarray(image)
        orientation = exif_orientation(image.info.get("exif", b""))
        return levels, replace(from_dots(image.info.get("dpi")), instrument=_camera(image), orientation=orientation)


def _camera(image: Any) -> str | None:
    try:
        exif = image.getexif()
        return instrument_name(exif.get(_EXIF_MAKE), exif.get(_EXIF_MODEL))
    except Exception:  # malformed EXIF data name no camera
        return None


def read_bmp(source: Source, max_pixels: int) -> tuple[NDArray[Any], PixelCalibration]:
    """Read a BMP: bilevel, palette (run-length coded or not) or colour. Alpha is dropped.

    Args:
        source: the open file.
        max_pixels: maximum number of pixels.

    Returns:
        uint8 (H, W) or (H, W, 3), and the pixel size in its header, if given.

    Raises:
        MicrographError: the image is too large, too small or truncated.
    """
    from PIL.BmpImagePlugin import BmpImageFile

    source.handle.seek(0)
    with BmpImageFile(source.handle) as image:
        raw = check_claim(source.name, image.width, image.height, len(image.getbands()), 8, max_pixels)
        decoder, _, offset, arguments = image.tile[0]
        if decoder == "raw" and isinstance(arguments, tuple):  # (mode, bytes per row, direction)
            end = int(offset) + int(arguments[1]) * image.height
            if end > source.size:
                raise truncated(source.name, f"its pixels should end at byte {end:,}, but it has {source.size:,} bytes")
        check_expansion(source.name, raw, source.size, _BMP_RUN_EXPANSION)
        check_decoded(source.name, image.width * image.height, _BMP_BYTES)
        calibration = from_dots(image.info.get("dpi"))
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8), calibration
        if image.mode == "L":
            return np.asarray(image), calibration
        if image.mode == "RGBA":
            levels = np.asarray(image)
            return levels[..., :3], replace(calibration, transparent=storage.share_below(levels[..., -1], 255))
        levels = np.asarray(image.convert("RGB"))
        return _grey_where_equal(levels) if image.mode == "P" else levels, calibration


def _grey_where_equal(levels: NDArray[Any]) -> NDArray[Any]:
    """Return one channel of an image whose palette is grey; other images unchanged."""
    if levels.ndim == 3 and all((levels[rows] == levels[rows, :, :1]).all() for rows in storage.bands(levels.shape)):
        return np.ascontiguousarray(levels[..., 0])
    return levels
