"""What a file may claim before anything is decoded, and how every refusal is worded.

A header is a claim by a stranger: sizes are checked against `MAX_PIXELS` and against what the stored bytes could
possibly expand to, so that a few hostile bytes cannot make the reader allocate gigabytes.
"""

from __future__ import annotations

from fusion_diff.errors import MicrographError

MIN_SIDE = 32
"""Shortest side of a micrograph in pixels; smaller images hold no texture to judge."""

MAX_PIXELS = 2**30
"""Largest micrograph read unless told otherwise, in pixels (32,768 x 32,768)."""

MAX_CHANNELS = 4
MAX_DECODED_BYTES = 2**31
"""Memory that a format may take which cannot be decoded to a file."""

# A small image cannot be a decompression bomb, and may honestly compress very well.
_EXPANSION_CHECKED_FROM = 2**26


def refusal(name: str, problem: str, cure: str) -> MicrographError:
    """Return the error for `name`: what is wrong with it, and what to do about it."""
    return MicrographError(f"{name}: {problem}; {cure}")


def check_sides(name: str, width: int, height: int) -> None:
    """Refuse an image with a side under `MIN_SIDE`.

    Raises:
        MicrographError: naming the size it has and the size it needs.
    """
    if min(width, height) < MIN_SIDE:
        raise refusal(
            name,
            f"the image is {width}x{height} pixels, and a micrograph needs at least {MIN_SIDE} on each side",
            "use the original image instead of a thumbnail or a crop",
        )


def check_claim(name: str, width: int, height: int, channels: int, bits: int, max_pixels: int) -> int:
    """Check the size that a header claims, before anything is allocated.

    Args:
        name: what to call the file in errors.
        width: claimed columns.
        height: claimed rows.
        channels: claimed samples per pixel, alpha included.
        bits: claimed bits per sample.
        max_pixels: most pixels to accept.

    Returns:
        The bytes that the pixels take up uncompressed, rows padded to whole bytes.

    Raises:
        MicrographError: a side under `MIN_SIDE`, more than `max_pixels` pixels, or no usable number of channels.
    """
    check_sides(name, width, height)
    if width * height > max_pixels:
        raise refusal(
            name,
            f"its header claims {width}x{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}",
            "crop it, or, if you trust the file and have the memory, read it in Python with a larger max_pixels",
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise refusal(
            name,
            f"it has {channels} channels, and a micrograph has 1 (grey) or 3 (colour), alpha apart",
            "save the channels you want to inspect as separate grey images",
        )
    return height * -(-width * channels * bits // 8)


def check_decoded(name: str, pixels: int, bytes_each: int) -> None:
    """Refuse an image whose format is decoded whole in memory and would take more than `MAX_DECODED_BYTES` there.

    Args:
        name: what to call the file in errors.
        pixels: claimed.
        bytes_each: that its decoder holds a pixel at most, working memory included.

    Raises:
        MicrographError: it would take more.
    """
    if pixels * bytes_each > MAX_DECODED_BYTES:
        raise refusal(
            name,
            f"{pixels:,} pixels of its format have to be decoded in memory, {pixels * bytes_each:,} bytes of it",
            "export it as TIFF or as PNG of 8 or 16 bits, which are read piece by piece",
        )


def check_expansion(name: str, raw: int, stored: int, ratio: int) -> None:
    """Refuse data that could not expand to what the header claims.

    Args:
        name: what to call the file in errors.
        raw: bytes claimed, uncompressed.
        stored: bytes the file holds for them.
        ratio: the most that one stored byte can expand to with this codec.

    Raises:
        MicrographError: the claim is impossible; the file is cut short or a decompression bomb.
    """
    if raw > _EXPANSION_CHECKED_FROM and raw > stored * ratio:
        raise refusal(
            name,
            f"its header claims {raw:,} bytes of pixels, but the {stored:,} bytes it holds cannot expand to that",
            "the file is truncated or was made to exhaust memory: get a fresh copy from the instrument",
        )


def truncated(name: str, detail: str) -> MicrographError:
    """Return the error for a file that ends before its pixels do."""
    return refusal(name, f"the file is truncated ({detail})", "copy or export it again from the instrument")
