"""Inspections as JSON Lines: one line per micrograph, written as soon as it is finished.

Each line is an object with "format", "version" (of FusionDiff), "path" and "judged", followed by the values of
`Inspection.to_dict`, or by "error", and then by "policy" where the file of one was given. Lines are ASCII, so that a
hostile file name cannot break a line. Numbers that JSON lacks (NaN, infinity) are null. A golden file in tests/golden
fixes the format: an incompatible change needs a new number in `FORMAT`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fusion_diff import __version__
from fusion_diff.checkpoint import digest
from fusion_diff.whole import naming

if TYPE_CHECKING:
    from datetime import datetime
    from io import FileIO
    from typing import TextIO

    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.inspection.run import Outcome

FORMAT = "fusion-diff/inspection/2"
"""Name and version of the format of a line."""
STDOUT = Path("-")
"""File name that means standard output."""
MAX_ERROR_CHARACTERS = 4000
"""Longest error that a ledger or a batch keeps."""


def to_record(outcome: Outcome, ruling: Ruling | None = None) -> dict[str, Any]:
    """Return an outcome as JSON-ready values: finite numbers or None, and strings that are valid Unicode.

    Args:
        outcome: an inspection, or an error.
        ruling: the ruling on it; told under `policy` where the policy is from a file.
    """
    record: dict[str, Any] = {"format": FORMAT, "version": __version__, "path": str(outcome.path)}
    record["judged"] = moment(outcome.judged)
    if outcome.inspection is not None:
        record |= outcome.inspection.to_dict()
    else:
        record["error"] = outcome.error
    if ruling is not None and ruling.told:
        record["policy"] = ruling.told
    plain: dict[str, Any] = _plain(record)
    return plain


def to_line(outcome: Outcome, ruling: Ruling | None = None) -> str:
    """Return an outcome as one line of JSON, without the line break; see `to_record`."""
    return json.dumps(to_record(outcome, ruling), allow_nan=False)


def moment(at: datetime) -> str:
    """Return a time in UTC by ISO 8601, to the microsecond, as ledgers have it."""
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


def digest_of_failed(file: Path | None) -> str | None:
    """Return the sha256 of a file that could not be inspected; None where there is no file or it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return digest(file) if file is not None and file.is_file() else None
    return None


def finite(value: float | None) -> float | None:
    """Return a number as a float; None where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


class RecordWriter:
    """Writes outcomes to a file as they come; lines that are written stay, even if the run is interrupted.

    Use as a context manager. The folder is created. An older file of that name is replaced when the first line is
    written or the run ends, so that a run that is interrupted before loses none of it. `STDOUT` is left open.

    Attributes:
        path: the file.
        lines: number of lines written.

    Raises:
        OSError: the file cannot be written; the error names it. No part of the line that it is about is kept.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file."""
        self.path = Path(path)
        self.lines = 0
        self._stdout: TextIO = sys.stdout
        self._file: FileIO | None = None
        if self.path == STDOUT:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would be written once more on closing and fail again on a full disk.
        self._file = self.path.open("ab", buffering=0)
        self._may_be_cut = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)  # a pipe or device may not

    def write(self, outcome: Outcome, ruling: Ruling | None = None) -> None:
        """Write one line and hand it to the operating system; see `to_record`."""
        line = to_line(outcome, ruling) + "\n"
        if self._file is None:
            self._stdout.write(line)
            self._stdout.flush()
        else:
            with naming(self.path):
                self._append(self._file, line.encode("ascii"))
        self.lines += 1

    def _append(self, file: FileIO, line: bytes) -> None:
        self._replace()
        start = os.fstat(file.fileno()).st_size
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            if self._may_be_cut:
                file.truncate(start)
            raise

    def _replace(self) -> None:
        """Drop the lines of an older file before the first line."""
        if self._file is not None and self._may_be_cut and not self.lines:
            self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file."""
        if kind is None:
            self._replace()
        self.close()


def _plain(value: Any) -> Any:
    """Convert values that JSON lacks: NumPy numbers, numbers that are not finite, lone surrogates."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, str):  # bytes of a file name that are not UTF-8 arrive as lone surrogates
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
