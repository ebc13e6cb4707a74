"""Reading of one page of a TIFF at full depth, after checks of its header."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.micrograph import storage
from fusion_diff.micrograph.codestream import (
    IMAGE_CODECS,
    JPEG,
    JPEG2000,
    PNG,
    check_jpeg,
    codestream_pixels,
)
from fusion_diff.micrograph.ifd import page_offset
from fusion_diff.micrograph.limits import MAX_STRIP_BYTES, check_claim, check_expansion, refusal, truncated
from fusion_diff.micrograph.metadata import from_tiff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from fusion_diff.micrograph.calibration import PixelCalibration
    from fusion_diff.micrograph.source import Source

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ALPHA = (1, 2)  # values of the ExtraSamples tag

_DECODED_TO_RGB = (*JPEG, *JPEG2000)  # decoders that convert YCbCr to RGB themselves

# No compression, LZW, deflate (two codes), PackBits, LZMA, Zstandard: the decoder gets the size of its output.
_BOUNDED_CODECS = frozenset({1, 5, 8, 32946, 32773, 34925, 50000})
_CODECS = _BOUNDED_CODECS | IMAGE_CODECS
_REFUSED_CODECS = {
    2: "CCITT modified Huffman",
    3: "CCITT Group 3",
    4: "CCITT Group 4",
    22610: "JPEG XR",
    34887: "LERC",
    34927: "WebP",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of some refused compressions for the error message. Every compression outside `_CODECS` is refused."""

# Maximum expansion of one stored byte: the hard limit of the codec, if it has one.
_EXPANSION = {1: 1, 32773: 64, 8: 1032, 32946: 1032, 34933: 1032}
_EXPANSION_OTHERS = 2**15

# Maximum memory of the image codecs per pixel that a stream claims: four of the largest samples, and coefficients.
_STREAM_BYTES = dict.fromkeys(JPEG, 12) | dict.fromkeys(PNG, 8) | dict.fromkeys(JPEG2000, 34)

_READ_AHEAD = 2**25  # compressed bytes read at a time
_LARGEST_TILE = 2**24  # pixels; a tile may be larger than a small image, within reason


def read_tiff(source: Source, page: int, max_pixels: int) -> tuple[NDArray[Any], PixelCalibration]:
    """Read a page of a TIFF.

    Args:
        source: the open file.
        page: index of the page (directory), from 0.
        max_pixels: maximum number of pixels.

    Returns:
        The stored levels, (H, W) or (H, W, 3), and the metadata. The levels are mapped from the source's copy if the
        file is large, uncompressed and contiguous; mapped from a temporary file if the decoded image is large; else in
        memory.

    Raises:
        MicrographError: the page does not exist, is too large, truncated, neither grey nor colour, or compressed by an
            unsupported codec.
    """
    import tifffile

    offset = page_offset(source.name, source.handle, source.size, page)
    source.handle.seek(0)  # tifffile starts at the current position
    # tifffile would follow further directories when it opens these kinds of TIFF, so they are read as plain ones.
    plain = {"is_lsm": False, "is_scanimage": False, "is_ndpi": False}
    with tifffile.TiffFile(source.handle, name="image.tif", **plain) as tif:
        if page == 0:
            directory = tif.pages.first
        else:
            tif.filehandle.seek(offset)
            directory = tifffile.TiffPage(tif, index=page)
        _check_kind(source.name, directory)
        memory = _check_layout(source, directory, max_pixels)
        levels = _decode(tif, directory, memory)
        calibration = replace(from_tiff(tif, directory), transparent=_transparent(levels, directory))
        return _grey_or_colour(source.name, levels, directory), calibration


def _check_kind(name: str, page: Any) -> None:
    if page.compression not in _CODECS:
        codec = _REFUSED_CODECS.get(page.compression, "an unknown codec")
        raise refusal(
            name,
            f"its pixels are compressed by {codec} (TIFF compression {int(page.compression)}), which is not supported",
            "save it uncompressed, or compressed by LZW or deflate",
        )
    if page.sampleformat in (5, 6) or (page.dtype is not None and page.dtype.kind == "c"):
        raise refusal(name, "its pixels are complex numbers", "save the magnitude as a real image")
    if page.dtype is None or isinstance(page.bitspersample, tuple):  # a tuple: depths that differ by channel
        raise refusal(
            name,
            f"its pixels have an unsupported format ({page.bitspersample} bits, sample format {page.sampleformat})",
            "save it with 8, 16 or 32 bits per sample",
        )
    if page.imagedepth != 1 or page.tiledepth > 1:
        raise refusal(name, "the page holds a volume", "save its slices as separate pages")
    photometric = _photometric(page)
    known = photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE)
    if not known and not (photometric == _YCBCR and page.compression in _DECODED_TO_RGB):
        raise refusal(
            name, f"its colours are of kind {photometric}, neither grey nor RGB", "convert it to grey or RGB and save"
        )


def _photometric(page: Any) -> int:
    # tifffile assumes MinIsWhite if the tag is missing. Such files come from simple writers that mean MinIsBlack.
    value = page.tags.valueof(262)
    return int(value) if value is not None else _MIN_IS_BLACK


def _check_layout(source: Source, page: Any, max_pixels: int) -> int:
    """Check the claimed size, and that every strip or tile lies within the file and can be decoded in memory.

    Returns:
        The bytes of memory that decoding one strip or tile takes at most; 0 where nothing is decoded.
    """
    name = source.name
    width, height = operator.index(page.imagewidth), operator.index(page.imagelength)
    samples = operator.index(page.samplesperpixel)
    raw = check_claim(name, width, height, samples, operator.index(page.bitspersample), max_pixels)
    if page.is_tiled:
        rows, columns = operator.index(page.tilelength), operator.index(page.tilewidth)
    else:
        rows, columns = operator.index(page.rowsperstrip), width
    if rows < 1 or columns < 1:
        raise refusal(name, f"it claims tiles of {columns}x{rows} pixels", "export it again as plain TIFF or PNG")
    number = math.ceil(height / rows) * math.ceil(width / columns)
    area = max(_LARGEST_TILE, 4 * width * height)  # limit of all tiles together, and of the sizes in their headers
    if page.is_tiled and number * rows * columns > area:
        raise refusal(
            name, f"it claims {number:,} tiles of {columns}x{rows} pixels", "export it again as plain TIFF or PNG"
        )
    planes = samples if page.planarconfig == 2 else 1
    expected = number * planes

    offsets = np.array([int(value) for value in page.dataoffsets], dtype=np.uint64)
    counts = np.array([int(value) for value in page.databytecounts], dtype=np.uint64)
    if len(offsets) < expected or len(counts) < expected:
        raise truncated(name, f"it lists {min(len(offsets), len(counts)):,} of its {expected:,} strips or tiles")
    offsets, counts = offsets[:expected], counts[:expected]  # some writers list too many
    if not counts.all() or not offsets.all():
        missing = int((np.logical_not(counts) | np.logical_not(offsets)).sum())
        raise truncated(name, f"{missing:,} of its {expected:,} strips or tiles were never written")
    if page.compression == 1 and expected == 1:
        counts = np.array([raw], dtype=np.uint64)  # simple writers store a wrong count here; it is not needed
    end = int(max(int(offset) + int(count) for offset, count in zip(offsets, counts, strict=True)))
    if end > source.size:
        raise truncated(name, f"its pixels should end at byte {end:,}, but it has {source.size:,} bytes")
    if page.compression == 1 and int(counts.sum()) < raw:
        raise truncated(name, f"it holds {int(counts.sum()):,} of the {raw:,} bytes of pixels it claims")
    stored = sum(map(int, counts))
    if stored > max(source.size, 2 * raw, _LARGEST_TILE):
        raise refusal(name, "its strips or tiles overlap many times", "export it again as plain TIFF or PNG")
    check_expansion(name, raw, stored, _EXPANSION.get(page.compression, _EXPANSION_OTHERS))
    if page.is_final:
        return 0
    if page.compression in IMAGE_CODECS:
        places = ((int(offset), int(count)) for offset, count in zip(offsets, counts, strict=True))
        pixels = _check_codestreams(source, page, places, area * planes)
        memory = pixels * _STREAM_BYTES[page.compression]
    else:
        pixels = columns * (rows if page.is_tiled else min(rows, height))
        memory = 2 * pixels * (samples // planes) * page.dtype.itemsize  # a copy in another order of bytes
    if memory > MAX_STRIP_BYTES:
        raise refusal(
            name,
            f"decoding one of its strips or tiles, of {pixels:,} pixels, would take {memory:,} bytes of memory, "
            f"more than the limit of {MAX_STRIP_BYTES:,}",
            "save it in strips or tiles of fewer pixels, or uncompressed",
        )
    return memory


def _check_codestreams(source: Source, page: Any, places: Iterable[tuple[int, int]], limit: int) -> int:
    """Refuse strips or tiles whose own headers, which decoders follow, claim far more than their place in the image.

    Returns:
        The most pixels that one of them claims.
    """
    # JPEG markers may be stored apart from the strips: in shared tables, or in the header of old-style JPEG.
    shared = [part for part in (page.jpegtables, page.jpegheader) if part] if page.compression in JPEG else []
    common = max((_claimed(part, page.compression)[0] for part in shared), default=0)
    claimed: dict[tuple[int, int], int] = {}
    total = 0
    for offset, count in places:
        if (offset, count) not in claimed:
            source.handle.seek(offset)
            data = source.handle.read(count)
            pixels, why = _claimed(data, page.compression)
            if page.compression in JPEG:
                check_jpeg(source.name, data)
            if not (pixels or common):
                raise refusal(
                    source.name,
                    f"the header of a strip or tile gives no reliable size ({why})",
                    "copy it again, or export it as plain TIFF or PNG",
                )
            claimed[offset, count] = max(pixels, common)
        total += claimed[offset, count]
        if total > limit:
            raise refusal(
                source.name,
                f"the headers of its strips or tiles claim {total:,} pixels, or parts that take as much to decode, "
                f"more than the limit of {limit:,}",
                "export it again as plain TIFF or PNG",
            )
    return max(claimed.values())


def _claimed(data: bytes, compression: int) -> tuple[int, str]:
    """Return the number of pixels that a strip or tile claims, or 0 and the reason why it cannot be told."""
    try:
        return codestream_pixels(data, compression), ""
    except ValueError as error:
        return 0, str(error)


def _decode(tif: Any, page: Any, memory: int) -> NDArray[Any]:
    """Return the page as (H, W) or (H, W, C), in its stored dtype; `memory` is what `_check_layout` returned."""
    if page.is_memmappable:
        levels = page.asarray(out="memmap", squeeze=False)
    else:
        out = storage.allocate(page.shaped, page.dtype)
        workers = min(page.maxworkers, MAX_STRIP_BYTES // max(1, memory))
        levels = page.asarray(out=out, squeeze=False, buffersize=_READ_AHEAD, maxworkers=workers)
    planes, _, height, width, _ = page.shaped  # (separate planes, depth, height, width, interleaved samples)
    if (height, width) != (page.imagelength, page.imagewidth):
        raise ValueError("the decoder and the header disagree about the size")
    levels = np.asarray(levels)
    levels = np.moveaxis(levels[:, 0, :, :, 0], 0, -1) if planes > 1 else levels[0, 0]
    if levels.shape[-1] == 1:
        levels = levels[..., 0]
    return levels.view(np.uint8) if levels.dtype == np.bool_ else levels


def _grey_or_colour(name: str, levels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Drop alpha, look up palettes, and invert MinIsWhite."""
    photometric = _photometric(page)
    samples = levels.shape[2] if levels.ndim == 3 else 1
    colour_and_more = samples == 4 and photometric in (_RGB, _YCBCR)
    if samples in (2, 4) and not _has_alpha(page) and not colour_and_more:
        raise refusal(
            name,
            f"it has {samples} channels, which are neither grey nor colour with alpha",
            "save the channel you want to inspect as a grey image",
        )
    if samples == 4:
        levels = levels[..., :3]
    elif samples == 2:
        levels = levels[..., 0]
    if photometric == _PALETTE and levels.ndim == 2:
        return _look_up(levels, page)
    if photometric == _MIN_IS_WHITE and levels.ndim == 2:
        return _invert(levels, page)
    return levels


def _has_alpha(page: Any) -> bool:
    extra = page.tags.valueof(338, default=())
    return any(int(value) in _ALPHA for value in (extra if isinstance(extra, tuple) else (extra,)))


def _transparent(levels: NDArray[Any], page: Any) -> float:
    """Return the share of pixels that are not opaque according to the alpha channel; 0 without one."""
    if levels.ndim != 3 or levels.shape[2] not in (2, 4) or levels.dtype.kind not in "uf" or not _has_alpha(page):
        return 0.0
    return storage.share_below(levels[..., -1], 1 if levels.dtype.kind == "f" else 2 ** int(page.bitspersample) - 1)


def _invert(levels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Invert the levels: unsigned ones are mirrored within their depth; signed and floating ones change their sign."""
    if levels.dtype.kind == "f":
        return storage.mapped(levels, np.negative)
    if levels.dtype.kind == "i":
        return storage.mapped(levels, np.invert)
    white = levels.dtype.type(2 ** int(page.bitspersample) - 1)
    return storage.mapped(levels, lambda band: white - band)


def _look_up(levels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Replace the indices of a palette image by its colours, or by grey levels if the palette is grey."""
    table = np.asarray(page.tags.valueof(320), dtype=np.uint16).reshape(3, -1).T
    if len(table) != 2 ** int(page.bitspersample):
        raise ValueError("the palette does not fit the bit depth")
    # Palettes are stored with 16 bits; 8-bit programs write v * 257, v * 256, or v.
    if (table % 257 == 0).all() or (table % 256 == 0).all():
        table = (table >> 8).astype(np.uint8)
    elif table.max() < 256:
        table = table.astype(np.uint8)
    if (table == table[:, :1]).all():
        table = table[:, 0]
    return storage.mapped(levels, lambda band: table[band])
