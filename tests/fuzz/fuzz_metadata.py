"""What instruments write into TIFF and PNG files: `metadata.from_tiff`, `from_png` and `from_dots`."""

from __future__ import annotations

import contextlib
import io
import math
import random
import struct

import fuzz_png
import numpy as np
import tifffile
from common import FindingError, bounded_memory, change_bytes
from fuzz_tiff import tiff

from fusion_diff.micrograph.calibration import PixelCalibration, micrometres
from fusion_diff.micrograph.metadata import from_dots, from_png, from_tiff

MAX_LEN = 2**14
_FEI = "[System]\r\nType=SEM\r\n[Image]\r\nResolutionX=48\r\nResolutionY=36\r\n[Scan]\r\nPixelWidth=2e-9\r\n"
_ZEISS = """0\r\n0\r\n0\r\n5e-009\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2 nm\r\n
DP_IMAGE_STORE\r\nStore resolution = 48 * 36\r\nSV_SERIAL_NUMBER\r\nSerial No. = SUPRA 55-1\r\n"""
_OME = """<OME><Instrument><Microscope Manufacturer="Keyence" Model="VHX"/></Instrument><Image><Pixels SizeX="48"
SizeY="40" PhysicalSizeX="2" PhysicalSizeXUnit="nm"/></Image></OME>"""
_WORDS = (b"1e999", b"-1", b"nan", b"2**31", b"9" * 400, b"=", b"\r\n", b"[", b"<", b"&x;", b"\xff", b"inf", b"0", b"*")


def _tagged(code: int, data: bytes) -> bytes:
    kind = "B" if code in (33560, 34118, 37706) else "s"
    return tiff(extratags=[(code, kind, len(data), data, True)], metadata=None)


def seeds() -> list[bytes]:
    """Return files with the metadata of every maker that is known."""
    sis = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 0, 1, 0, 120, b"name", 1)
    sis += struct.pack("<hhI", 1, 1, 500) + struct.pack("<10xhdd8xd2x34s32s", -6, 0.5, 0.5, 1000.0, b"Colour", b"")
    tvips = np.zeros(1, np.dtype(tifffile.TIFF.TVIPS_HEADER_V1)), np.zeros(1, np.dtype(tifffile.TIFF.TVIPS_HEADER_V2))
    tvips[0]["Version"], tvips[1]["PixelSizeX"], tvips[1]["Magic"] = 2, 0.25, 0xAAAAAAAA
    return [
        _tagged(34682, _FEI.encode() + b"\0"),
        _tagged(34118, _ZEISS.encode() + b"\0"),
        _tagged(33560, sis),
        _tagged(37706, tvips[0].tobytes() + tvips[1].tobytes()),
        tiff(description=_OME, metadata=None),
        tiff(imagej=True, resolution=(2, 2), metadata={"unit": "\\u00B5m", "Info": "a=1\nb=2"}),
        tiff(resolution=(2e4, 2e4), resolutionunit="CENTIMETER", software="a", metadata=None),
        *fuzz_png.seeds()[-2:],
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Put a word that parsers dislike somewhere; or change bytes anywhere."""
    if rng.random() < 0.5:
        return change_bytes(data, rng)
    at, word = rng.randrange(len(data) + 1), rng.choice(_WORDS)
    return data[:at] + word + data[at + len(word) :]


def check(data: bytes) -> None:
    """Gather what the file says of itself; nothing is ever raised, whatever it says."""
    with bounded_memory():
        found = [from_png(data), from_dots(tuple(struct.unpack("<dd", data[:16].ljust(16, b"\0"))))]
        micrometres(data[:32].decode("latin-1"))
        with contextlib.ExitStack() as stack:
            try:
                tif = stack.enter_context(tifffile.TiffFile(io.BytesIO(data), name="image.tif"))
                page = tif.pages.first
            except Exception:  # not a TIFF; what opening one may raise is the matter of fuzz_tiff
                page = None
            if page is not None:
                found.append(from_tiff(tif, page))
    for calibration in found:
        _sane(calibration)


def _sane(calibration: PixelCalibration) -> None:
    size, name, height = calibration.pixel_size_um, calibration.instrument, calibration.true_height
    if size is not None and not (isinstance(size, float) and math.isfinite(size) and 1e-6 <= size <= 1e4):
        raise FindingError(f"a pixel of {size!r} µm")
    if name is not None and not (name.isprintable() and 0 < len(name) <= 120):
        raise FindingError(f"an instrument called {name[:200]!r}")
    if height is not None and not isinstance(height, int):
        raise FindingError(f"a height of {height!r}")
