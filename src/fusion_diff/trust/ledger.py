"""The ledger: an append-only file of verdicts, one line of JSON each, chained by hashes.

Each line is an object in canonical form (sorted keys, no spaces, ASCII) with "version" (of FusionDiff), "sequence",
"time", "previous" and "hash". The hash is the sha256 of the line's canonical form without "hash", and "previous" is
that of the line before (Haber and Stornetta 1991). The first line is a header with a random "id". `FILE.head` beside it
holds the number of lines and the last hash, since a chain alone does not show that its end was cut off.

Anyone with write access to both files can write another history. So note the head's hash elsewhere now and then, and
pass it to `ledger_check.check`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from fusion_diff import __version__
from fusion_diff.errors import TrustError
from fusion_diff.locks import locked
from fusion_diff.printable import quoted
from fusion_diff.trust.files import expect_ledger, followed, read_bounded, write_new
from fusion_diff.whole import naming, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "fusion-diff/ledger/1"
HEAD_FORMAT = "fusion-diff/ledger-head/1"
MAX_LINE_BYTES = 2**20
NOTHING = "0" * 64
"""Hash of the line before the header."""

_BACKWARDS_BYTES = 2**16
_START = b'{"format":"fusion-diff/ledger/'


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the canonical form of a record, without the line break.

    Raises:
        ValueError: the record holds a value that JSON lacks, such as NaN.
    """
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def chained(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its "hash"."""
    bare = {key: value for key, value in record.items() if key != "hash"}
    return bare | {"hash": hashlib.sha256(canonical(bare)).hexdigest()}


def following(record: Mapping[str, Any], sequence: int, previous: str) -> tuple[dict[str, Any], bytes]:
    """Return a record as the line of a given number, and the line's bytes without the line break.

    Args:
        record: JSON-ready values.
        sequence: number of the line; the header is 0.
        previous: hash of the line before.

    Raises:
        TrustError: the line is longer than `MAX_LINE_BYTES`.
    """
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    added = chained({**record, "version": __version__, "sequence": sequence, "time": now, "previous": previous})
    line = canonical(added)
    if len(line) >= MAX_LINE_BYTES:
        raise TrustError(f"the line has {len(line)} bytes, but must have less than {MAX_LINE_BYTES}; record less")
    return added, line


def header() -> dict[str, Any]:
    """Return the header of a new ledger, its first line."""
    return {"format": FORMAT, "id": secrets.token_hex(16)}


def head_record(ledger_id: str, count: int, last_hash: str) -> dict[str, Any]:
    """Return the contents of `FILE.head` for a ledger of `count` lines."""
    return {"format": HEAD_FORMAT, "id": ledger_id, "count": count, "hash": last_hash}


def parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line without its line break; return None where it is not in canonical form or its hash is wrong."""
    try:
        record = json.loads(line)
        whole = isinstance(record, dict) and canonical(chained(record)) == line
    except (ValueError, RecursionError):
        return None
    if not whole or not _is_count(record.get("sequence")) or not isinstance(record.get("previous"), str):
        return None
    return dict(record)


def may_start(line: bytes) -> bool:
    """Return whether a file with this first line may be a ledger, even one that is altered, torn or of another version.

    Other files must not be repaired.
    """
    return parse(line.removesuffix(b"\n")) is not None or b"fusion-diff/ledger/" in line or _START.startswith(line)


def _is_count(value: object) -> bool:
    """Return whether a value is a plausible number of lines. Python parses integers that it cannot print."""
    return type(value) is int and 0 <= value < 2**63


def read_head(path: Path) -> dict[str, Any] | None:
    """Return the contents of `FILE.head` (id, count and hash); None where there is no such file.

    Raises:
        TrustError: the file is not the head of a ledger, or cannot be read.
    """
    file = _beside(path, ".head")
    try:
        text = read_bounded(followed(file), MAX_LINE_BYTES, "head of a ledger")
    except TrustError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        head = json.loads(text)
        if head["format"] == HEAD_FORMAT and _is_count(head["count"]) and isinstance(head["hash"], str):
            return dict(head)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise TrustError(f"{file}: it is not the head of a ledger; restore it from a copy, or start a new ledger")


class Ledger:
    """Appends lines to a ledger; each is on disk when `append` returns. Use as a context manager.

    Several threads may share one ledger, and several processes one file, where the system has exclusive locks.

    Raises:
        TrustError: the file is a device or not a ledger, its first or last line is damaged or does not match the head,
            or it was replaced.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a ledger and check its end, or start one with a header."""
        self.path = Path(path)
        self._adding = threading.Lock()  # threads share the open file and so its lock
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not os.path.lexists(self.path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        self._end = -1  # size of the file after the last line known to this object
        self._sequence, self._hash, self._id = -1, NOTHING, ""
        try:
            expect_ledger(self.path, os.fstat(self._file))
            with locked(self._file):
                if os.fstat(self._file).st_size == 0:
                    self._start(new)
                else:
                    self._catch_up()
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> str:
        """Hash of the last line. Noted elsewhere, it reveals truncation and rewriting."""
        return self._hash

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Append a line and return it, with its version, sequence, time, previous hash and hash.

        Args:
            record: JSON-ready values, such as those of `inspection.ledger_entry.verdict`.
        """
        with self._adding, locked(self._file):
            self._catch_up()
            return self._write(record)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        """Return the ledger."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, whatever happened."""
        self.close()

    def _start(self, new: bool) -> None:
        """Write the header. A new file that it cannot be written to is removed, while others wait for the lock."""
        self._expect_in_place()  # else what is there now is another's, and stays
        try:
            if read_head(self.path) is not None:
                raise TrustError(
                    f"{self.path}: the file is {'missing' if new else 'empty'}, but {self.path.name}.head lists lines "
                    "in it; restore it from a copy, or choose another file"
                )
            first = header()
            self._id = first["id"]
            self._write(first)
        except Exception:  # an interruption may come when the head is written, and then leaves a ledger that is whole
            if new:
                with suppress(OSError):  # Windows removes no open file
                    self.path.unlink()
            raise

    def _write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write one line and the head; call under the lock."""
        try:
            added, line = following(record, self._sequence + 1, self._hash)
        except TrustError as error:
            raise TrustError(f"{self.path}: {error}") from None
        line += b"\n"
        with naming(self.path):
            start, rest = os.fstat(self._file).st_size, line
            try:
                while rest:  # a disk that fills up takes a part, and refuses the next
                    rest = rest[os.write(self._file, rest) :]
                os.fsync(self._file)
                write_head(self.path, self._id, added["sequence"] + 1, added["hash"])
            except OSError:  # a line that is missing in the head would look like tampering
                os.ftruncate(self._file, start)
                raise
        self._end, self._sequence, self._hash = start + len(line), added["sequence"], added["hash"]
        return added

    def _expect_in_place(self) -> os.stat_result:
        """Return the status of the open file, after checking that it still is the one at its path."""
        here = os.fstat(self._file)
        with suppress(FileNotFoundError):
            there = self.path.stat()
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return here
        raise TrustError(f"{self.path}: the ledger was moved or replaced during the run; start again")

    def _catch_up(self) -> None:
        """Read the end of the chain again if another process has appended; call under the lock."""
        here = self._expect_in_place()
        if here.st_size == self._end:
            return
        with os.fdopen(os.dup(self._file), "rb") as stream:
            stream.seek(0)
            start = stream.readline(MAX_LINE_BYTES)
            last = _last_line(stream, here.st_size)
            if not may_start(start):
                raise TrustError(f"{self.path}: it is not a ledger of format {FORMAT}; choose another file")
            if not last.endswith(b"\n"):
                _expect_never_whole(self.path, stream)
                raise TrustError(
                    f"{self.path}: the last line is torn, as after a run that was killed while writing it; set it "
                    f"aside, if nothing else is wrong, with fusion-diff audit {quoted(self.path)} --repair"
                )
        first, record = parse(start.removesuffix(b"\n")), parse(last.removesuffix(b"\n"))
        if first is not None and (first.get("format") != FORMAT or not isinstance(first.get("id"), str)):
            raise TrustError(f"{self.path}: it is not a ledger of format {FORMAT}; choose another file")
        head = read_head(self.path)
        if first is None or record is None or not _agrees(head, first, record):
            raise TrustError(
                f"{self.path}: its start or end is damaged or does not match {self.path.name}.head, and nothing is "
                "added to a ledger that may have been tampered with; see fusion-diff audit "
                f"{quoted(self.path)}, and restore it or start a new one"
            )
        self._end, self._id = here.st_size, first["id"]
        self._sequence, self._hash = record["sequence"], record["hash"]


def _agrees(head: Mapping[str, Any] | None, first: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Return whether the head matches the last line, or the one before it where a run was killed in between."""
    if head is None:
        return bool(last["sequence"] == 0)
    same = (head["count"], head["hash"]) == (last["sequence"] + 1, last["hash"])
    behind = (head["count"], head["hash"]) == (last["sequence"], last["previous"])
    return bool(head.get("id") == first["id"] and (same or behind))


def _last_line(stream: BinaryIO, size: int) -> bytes:
    """Return the last line of a file of `size` bytes, reading backwards, at most `MAX_LINE_BYTES`."""
    tail = b""
    while size > 0 and tail.count(b"\n", 0, -1) == 0 and len(tail) <= MAX_LINE_BYTES:
        step = min(_BACKWARDS_BYTES, size)
        size -= step
        stream.seek(size)
        tail = stream.read(step) + tail
    return tail[tail.rfind(b"\n", 0, -1) + 1 :]


def write_head(path: Path, ledger_id: str, count: int, last_hash: str) -> None:
    """Replace `FILE.head` atomically."""
    write_whole(_beside(path, ".head"), canonical(head_record(ledger_id, count, last_hash)) + b"\n")


def repair(path: str | os.PathLike[str]) -> Path | None:
    """Move a torn last line from the ledger to `FILE.torn`; return that path, or None where no line is torn.

    Raises:
        TrustError: the file is not a ledger, or the line was complete once and was cut later. Nothing is changed.
    """
    path = Path(path)
    expect_ledger(path, path.stat())
    with path.open("r+b") as stream, locked(stream.fileno()):
        size = os.fstat(stream.fileno()).st_size
        torn = _last_line(stream, size)
        if not torn or torn.endswith(b"\n"):
            return None
        if len(torn) > MAX_LINE_BYTES:
            raise TrustError(f"{path}: its last line is longer than any line of a ledger; restore it from a copy")
        stream.seek(0)
        if not may_start(stream.readline(MAX_LINE_BYTES)):
            raise TrustError(f"{path}: it is not a ledger of format {FORMAT}, so nothing was repaired; check the path")
        _expect_never_whole(path, stream)
        aside = _free(_beside(path, ".torn"))
        write_new(aside, torn, 0o644)
        os.ftruncate(stream.fileno(), size - len(torn))
        os.fsync(stream.fileno())
    return aside


def _expect_never_whole(path: Path, stream: BinaryIO) -> None:
    """Check that the torn last line of an open ledger was never complete, so that it may be set aside.

    Raises:
        TrustError: the head lists it as complete, or cannot be read.
    """
    stream.seek(0)
    whole = sum(block.count(b"\n") for block in iter(lambda: stream.read(_BACKWARDS_BYTES), b""))
    head = read_head(path)
    if head is not None and head["count"] > whole:
        raise TrustError(
            f"{path}: {path.name}.head lists line {whole + 1} as complete, so it was cut off after it "
            "was written; nothing was repaired or added, restore the ledger from a copy"
        )


def _free(file: Path) -> Path:
    number, found = 1, file
    while found.exists():
        number += 1
        found = file.with_name(f"{file.name}-{number}")
    return found


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
