"""Flaw marks: `marks.read_mark` on files of any format."""

from __future__ import annotations

import random

import fuzz_bmp
import fuzz_png
import fuzz_tiff
import numpy as np
from common import FindingError, bounded_memory, written
from images import TEXTURE

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import Micrograph
from fusion_diff.references.marks import read_mark

MAX_LEN = 2**14
_MICROGRAPH = Micrograph.from_array(TEXTURE)


def seeds() -> list[bytes]:
    """Return masks as TIFF, PNG and BMP."""
    mask = np.zeros((40, 48), np.uint8)
    mask[4:9] = 1
    return [fuzz_tiff.tiff(mask), fuzz_tiff.tiff(mask > 0), fuzz_png.seeds()[4], fuzz_bmp.seeds()[1]]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """As for the format."""
    kind = fuzz_png if data.startswith(b"\x89PNG") else fuzz_bmp if data.startswith(b"BM") else fuzz_tiff
    return kind.mutate(data, rng)


def check(data: bytes) -> None:
    """Read a mark of a micrograph."""
    path = written(data, "mark.png")
    try:
        # Sizes are as large here as they may be: a mark's limit is not for its reader to choose.
        with bounded_memory():
            mark = read_mark(path, _MICROGRAPH, "sound/a.tif")
    except ReferenceSetError:
        return
    if mark.dtype != bool or mark.shape != (40, 48):
        raise FindingError(f"a mark of {mark.dtype}, {mark.shape}")
