"""What the harnesses share: a place for files, a bound on memory, and mutations that know no format."""

from __future__ import annotations

import contextlib
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

PEAK_BYTES = 2**29
"""More memory than this over one input is a finding. Inputs are of some kilobytes, and claims of pixels are bounded."""

MAX_PIXELS = 2**20
"""The limit given to readers of images: what they take for a claim within it has to stay far under `PEAK_BYTES`."""

MAX_MESSAGE = 20_000
"""Longer messages are a finding: whatever a file holds, its reader speaks of it shortly."""

INTERESTING = (0, 1, 2, 7, 8, 16, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

_folder = tempfile.TemporaryDirectory(prefix="fusion-diff-fuzz-")
FOLDER = Path(_folder.name)
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class FindingError(AssertionError):
    """A reader did what it must not."""


def written(data: bytes, name: str) -> Path:
    """Return a file that holds `data`."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def check_message(error: Exception) -> None:
    """Raise `FindingError` where the message of an error is longer than anyone reads."""
    if len(str(error)) > MAX_MESSAGE:
        raise FindingError(f"a message of {len(str(error))} characters") from error


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Raise `FindingError` where the block took more than `PEAK_BYTES` at its peak; measures on Linux alone."""
    before = _kilobytes("VmRSS", reset=True)
    yield
    if before is not None and (after := _kilobytes("VmHWM")) is not None and (after - before) * 1024 > PEAK_BYTES:
        raise FindingError(f"{(after - before) // 1024} MiB of memory")


def _kilobytes(field: str, *, reset: bool = False) -> int | None:
    try:
        if reset:
            _RESET.write_text("5")  # the peak is counted anew
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1])


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to four changes: bytes, whole numbers, pieces left out, doubled or moved."""
    out = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        if rng.random() < 0.4:
            at %= 512  # headers are short, and pixels tell readers little
        what = rng.randrange(6)
        if what == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            number = rng.choice(INTERESTING) & 0xFFFFFFFF
            packed = struct.pack(rng.choice("<>") + "I", number)[: rng.choice((1, 2, 4))]
            out[at : at + len(packed)] = packed
        elif what == 2:
            del out[at : at + rng.randint(1, 16)]
        elif what == 3:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif what == 4:
            del out[rng.randrange(len(out) + 1) :]
        else:
            start = rng.randrange(len(out) or 1)
            out[at:at] = out[start : start + rng.randint(1, 32)]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)
