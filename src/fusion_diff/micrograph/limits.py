"""Limits on the sizes that a file's header claims, checked before decoding, and the wording of refusals.

Headers are untrusted. Sizes are checked against `MAX_PIXELS` and against the largest possible expansion of the stored
bytes, so that a few hostile bytes cannot make the reader allocate gigabytes.
"""

from __future__ import annotations

import operator

from fusion_diff.errors import MicrographError, TooManyPixelsError

MIN_SIDE = 32
"""Shortest side of a micrograph in pixels; smaller images show too little texture."""

MAX_PIXELS = 2**30
"""Default maximum size of a micrograph in pixels (32,768 x 32,768)."""

ENLARGED_TO = 224
"""Shorter side, in pixels, that smaller micrographs are enlarged to before they are judged; see `tiles`."""
_STRIP_CHECKED_FROM = 2**20

MAX_CHANNELS = 4
MAX_PIXEL_BYTES = 24
"""Largest decoded pixel (colour of 64 bits); times the limit of pixels, it is the temporary room for a micrograph."""

MAX_DECODED_BYTES = 2**31
"""Maximum memory for formats that cannot be decoded to a file."""

MAX_STRIP_BYTES = 2**30
"""Maximum memory for decoding the strips or tiles of a TIFF, each of which is decoded as a whole in memory."""

# A small image cannot be a decompression bomb, and may legitimately compress very well.
_EXPANSION_CHECKED_FROM = 2**26


def refusal(name: str, problem: str, cure: str) -> MicrographError:
    """Return the error for the file `name`, with its problem and the cure."""
    return MicrographError(f"{name}: {problem}; {cure}")


def check_sides(name: str, width: int, height: int) -> None:
    """Refuse an image with a side under `MIN_SIDE`.

    Raises:
        MicrographError: the message names the actual and the required size.
    """
    if min(width, height) < MIN_SIDE:
        raise refusal(
            name,
            f"the image has {width}x{height} pixels, but each side must have at least {MIN_SIDE}",
            "use the original image instead of a thumbnail or a crop",
        )


def checked_limit(name: str, max_pixels: int | None) -> int:
    """Return the maximum number of pixels: the one given, or `MAX_PIXELS` if None.

    Raises:
        MicrographError: it is not an integer of at least 1.
    """
    if max_pixels is None:
        return MAX_PIXELS
    try:
        limit = operator.index(max_pixels)
    except TypeError:
        limit = 0
    if limit < 1:
        raise refusal(name, f"max_pixels is {max_pixels!r}", "give an integer from 1, or None for the default limit")
    return limit


def check_claim(name: str, width: int, height: int, channels: int, bits: int, max_pixels: int) -> int:
    """Check the size that a header claims, before anything is allocated.

    Args:
        name: the file's name in error messages.
        width: claimed columns.
        height: claimed rows.
        channels: claimed samples per pixel, including alpha.
        bits: claimed bits per sample.
        max_pixels: maximum number of pixels.

    Returns:
        The size of the uncompressed pixels in bytes, with rows padded to whole bytes.

    Raises:
        TooManyPixelsError: there are more than `max_pixels` pixels.
        MicrographError: a side is under `MIN_SIDE`, the number of channels is not supported, or a pixel has more than
            `MAX_PIXEL_BYTES`.
    """
    check_sides(name, width, height)
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: its header claims {width}x{height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; crop it, or, if you trust the file and have the memory, raise the limit: --max-pixels on "
            "the command line, max_pixels in Python, FUSION_DIFF_MAX_PIXELS for a service",
            width,
            height,
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise refusal(
            name,
            f"it has {channels} channels; only 1 (grey) and 3 (colour) are supported, with or without alpha",
            "save the channels you want to inspect as separate grey images",
        )
    if channels * bits > 8 * MAX_PIXEL_BYTES:
        raise refusal(
            name,
            f"each of its pixels has {channels} channels of {bits} bits, more than {MAX_PIXEL_BYTES} bytes",
            "save it without alpha, or with 32 bits per sample",
        )
    return height * -(-width * channels * bits // 8)


def check_strip(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse a narrow strip that would have more pixels than the limit, once it is enlarged to be judged.

    Raises:
        TooManyPixelsError: it would; judging takes time by the enlarged size.
    """
    enlarged = round(height * width * max(1.0, ENLARGED_TO / min(height, width)) ** 2)
    if enlarged > max(max_pixels, _STRIP_CHECKED_FROM):
        raise TooManyPixelsError(
            f"{name}: it is a strip of {height}x{width} pixels (height x width); it would be enlarged until its "
            f"shorter side has {ENLARGED_TO}, and have {enlarged:,}, more than the limit of {max_pixels:,}; "
            "cut it into parts",
            width,
            height,
        )


def check_decoded(name: str, pixels: int, bytes_each: int) -> None:
    """Refuse an image that would need more than `MAX_DECODED_BYTES`, for formats decoded as a whole in memory.

    Args:
        name: the file's name in error messages.
        pixels: claimed number of pixels.
        bytes_each: maximum memory of the decoder per pixel, including working memory.

    Raises:
        MicrographError: it would need more memory.
    """
    if pixels * bytes_each > MAX_DECODED_BYTES:
        raise refusal(
            name,
            f"decoding its {pixels:,} pixels in memory would take {pixels * bytes_each:,} bytes, "
            f"more than the limit of {MAX_DECODED_BYTES:,}",
            "export it as TIFF or as a grey or RGB PNG, which are decoded to a temporary file",
        )


def check_expansion(name: str, raw: int, stored: int, ratio: int) -> None:
    """Refuse data that cannot expand to the size that the header claims.

    Args:
        name: the file's name in error messages.
        raw: claimed size in bytes, uncompressed.
        stored: stored size in bytes.
        ratio: maximum expansion of a stored byte with this codec.

    Raises:
        MicrographError: the claim is impossible; the file is truncated or a decompression bomb.
    """
    if raw > _EXPANSION_CHECKED_FROM and raw > stored * ratio:
        raise refusal(
            name,
            f"its header claims {raw:,} bytes of pixels, but the {stored:,} bytes stored cannot expand to that",
            "the file is truncated or was made to exhaust memory: get a fresh copy from the instrument",
        )


def truncated(name: str, detail: str) -> MicrographError:
    """Return the error for a file that ends before its pixels do."""
    return refusal(name, f"the file is truncated ({detail})", "copy or export it again from the instrument")
