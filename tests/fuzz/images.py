"""What the harnesses of image readers share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from common import MAX_PIXELS, FindingError, bounded_memory, written
from PIL import Image

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import MIN_SIDE, load_microstructure_data

TEXTURE = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def pillow(kind: str, mode: str = "L", **options: Any) -> bytes:
    """Return a picture saved by Pillow."""
    stream = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def check_image(data: bytes, *, pages: int = 1) -> None:
    """Read `data` as a micrograph: it is refused with a `MicrographError` that names file and cure, or is one."""
    path = written(data, "image.bin")
    for page in range(pages):
        with bounded_memory():
            try:
                micrograph = load_microstructure_data(path, page=page, max_pixels=MAX_PIXELS)
                pixels = micrograph.window(0, 0, micrograph.height, micrograph.width)
                low, high = micrograph.contrast_range
            except MicrographError as error:
                if str(path) not in str(error) or "; " not in str(error) or len(str(error)) > 2000:
                    raise FindingError(f"a refusal without file or cure, or endless: {str(error)[:300]}") from error
                continue
            except MemoryError as error:
                raise FindingError("out of memory") from error
        size = micrograph.pixel_size_um
        sane = (
            np.isfinite(pixels).all(),
            np.isfinite([low, high]).all() and low < high,
            min(micrograph.height, micrograph.width) >= MIN_SIDE,
            micrograph.height * micrograph.width <= MAX_PIXELS,
            size is None or 0 < size < 1e6,
            micrograph.instrument is None or micrograph.instrument.isprintable(),
        )
        if not all(sane):
            raise FindingError(f"a micrograph that is none: {micrograph!r}, {sane}")
