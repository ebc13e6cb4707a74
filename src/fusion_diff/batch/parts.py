"""The output of a batch: a folder of numbered Parquet files. Each file is written atomically, and by one run at a time.

    OUT/part-000001.parquet       rows, see `rows`
    OUT/heatmaps/3f/3f….png       heat maps by key, if requested
    OUT/.lock                     held by the run that is writing

The files are the only record of what is done, so no second record can disagree with them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fusion_diff.batch.done import KEY_BYTES, DoneSet
from fusion_diff.batch.items import unwritten
from fusion_diff.batch.rows import FORMAT, schema
from fusion_diff.dependencies import needed
from fusion_diff.errors import BatchError
from fusion_diff.locks import hold
from fusion_diff.printable import printable
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion_diff.batch.rows import FinishedRow
    from fusion_diff.trust.ledger import Ledger

HEATMAPS = "heatmaps"
LOCK = ".lock"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_HEATMAP = re.compile(rf"([0-9a-f]{{2}})[0-9a-f]{{{2 * KEY_BYTES - 2}}}\.png")
_SAID = {
    "model_sha256": "the model",
    "references_sha256": "the enrolled references",
    "alpha": "alpha",
    "pixel_size_um": "the pixel size",
    "page": "the page",
    "trusted_keys": "the set of trusted keys (ids)",
}


def is_heatmap(path: Path) -> bool:
    """Return whether a path ends like that of a heat map in an output folder."""
    found = _HEATMAP.fullmatch(path.name)
    return found is not None and path.parent.name == found[1] and path.parent.parent.name == HEATMAPS


class ParquetOutput:
    """Adds rows to the output folder of a batch and holds its lock. Use as a context manager.

    Attributes:
        kept: rows in the folder's files.
        done: the keys of those rows, and with `retry` only of those without an error.
        judged: the first `KEY_BYTES` bytes of `file_sha256` of those rows without an error.
    """

    def __init__(
        self, folder: Path, run: Mapping[str, Any], rows: int, *, retry: bool = False, ledger: Ledger | None = None
    ) -> None:
        """Create the folder if needed, lock it, and check that its files were made with the same model and settings.

        Args:
            folder: the output folder.
            run: `model_sha256`, `references_sha256`, `alpha`, `pixel_size_um`, `page`, `trusted_keys`, and anything
                else to note in the files.
            rows: maximum number of rows per file; they are held in memory until the file is written.
            retry: count micrographs that could not be inspected as not done; their new rows will replace the old ones.
            ledger: one that gets the entry of each row before the row's file is written.

        Raises:
            BatchError: another run holds the lock, the folder cannot be written, or its files are damaged or of
                another version, model or setting.
            DependencyError: pyarrow is not installed.
        """
        self.folder = folder
        self.kept = 0
        self.done = DoneSet()
        self.judged = DoneSet()
        self._retried: dict[Path, Any] = {}
        self._rows_each = rows
        self._rows: list[dict[str, Any]] = []
        self._ledger = ledger
        self._entries: deque[dict[str, Any]] = deque()
        self._number = 0
        self._lock = -1
        self._arrow = needed("this batch", "pyarrow", "batch")
        self._compute = needed("this batch", "pyarrow.compute", "batch")
        self._parquet = needed("this batch", "pyarrow.parquet", "batch")
        self._metadata = {
            b"fusion_diff.format": FORMAT.encode(),
            b"fusion_diff.run": json.dumps(dict(run), sort_keys=True).encode(),
        }
        self._run = dict(run)
        self._schema = schema().with_metadata(self._metadata)
        try:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._hold()
            except OSError as error:
                raise BatchError(
                    f"{printable(folder)}: cannot be written ({error.strerror}); choose another folder"
                ) from error
            self._take_up(retry)
        except BaseException:
            self.close()
            raise

    def add(self, finished: FinishedRow) -> None:
        """Add a row and its heat map. Write a file once there are enough rows.

        Raises:
            BatchError: the heat map cannot be written, or as `flush`.
            TrustError: as `flush`.
        """
        row = finished.row
        if finished.heatmap is not None:
            name = row["key"].hex()
            row["heatmap"] = f"{HEATMAPS}/{name[:2]}/{name}.png"  # the pattern that `is_heatmap` recognises
            self._write(self.folder / row["heatmap"], finished.heatmap)
        self._rows.append(row)
        if finished.entry is not None:
            self._entries.append(finished.entry)
        if len(self._rows) >= self._rows_each:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows, if any, as the next file. Their micrographs' rows of earlier runs are removed first.

        Raises:
            BatchError: the file or the ledger cannot be written; the rows stay pending.
            TrustError: the ledger is damaged or was replaced; the rows stay pending.
        """
        if not self._rows:
            return
        self._record()
        self._forget([row["key"] for row in self._rows])
        table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
        self._write_table(self.folder / f"part-{self._number + 1:06d}.parquet", table)
        # In this order, an interruption by a signal leads to the same file being written again, or to no change.
        count, self._rows = len(self._rows), []
        self._number += 1
        self.kept += count

    def _record(self) -> None:
        """Append the pending entries to the ledger. Each is pending until its line is there, so none is left out."""
        while self._ledger is not None and self._entries:
            try:
                self._ledger.append(self._entries[0])
            except OSError as error:
                raise BatchError(
                    f"{printable(self._ledger.path)}: the ledger cannot be written ({unwritten(error)}); free space, "
                    "then run the same command again"
                ) from error
            self._entries.popleft()

    def close(self) -> None:
        """Release the lock. Pending rows are dropped."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        """Return the output."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.close()

    def _write_table(self, file: Path, table: Any) -> None:
        buffer = io.BytesIO()
        self._parquet.write_table(table, buffer, compression="zstd")
        self._write(file, buffer.getvalue())

    def _write(self, file: Path, content: bytes) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)
        except OSError as error:
            raise BatchError(
                f"{printable(file)}: cannot be written ({unwritten(error)}); free space, then run the "
                "same command again"
            ) from error

    def _hold(self) -> None:
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            hold(self._lock)
        except BlockingIOError:
            holder = printable(os.read(self._lock, 200).decode("utf-8", "replace").strip()) or "another process"
            raise BatchError(
                f"{printable(self.folder)}: another run is writing there ({holder}); wait until it is done, or choose "
                "another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _take_up(self, retry: bool) -> None:
        for stale in (*self.folder.glob(".part-*"), *self.folder.glob(f"{HEATMAPS}/*/.*.png.*")):
            stale.unlink(missing_ok=True)  # temporary files of a run that was killed
        with contextlib.ExitStack() as stack:
            entries = stack.enter_context(os.scandir(self.folder))
            numbers = sorted(int(found[1]) for entry in entries if (found := _PART.fullmatch(entry.name)))
        files = [self.folder / f"part-{number:06d}.parquet" for number in numbers]
        self._number = numbers[-1] if numbers else 0
        done, judged = [], []
        for file in files:
            keys, without_error, digests = self._rows_of(file)
            self.kept += len(keys)
            if retry and not without_error.all():
                self._retried[file] = keys[~without_error]
            done.append(keys[without_error] if retry else keys)
            judged.append(digests)
        if files:
            self.done.add_all(np.concatenate(done))
            self.judged.add_all(np.concatenate(judged))

    def _rows_of(self, file: Path) -> tuple[Any, Any, Any]:
        """Check a file's version and settings. Return its rows' keys, which have no error, and `judged` of these."""
        pa, name = self._arrow, printable(file)
        try:
            with self._parquet.ParquetFile(file) as opened:
                metadata = opened.schema_arrow.metadata or {}
                self._check(name, metadata)
                rows = opened.read(columns=["key", "file_sha256", "error"])
                keys = rows.column("key").combine_chunks()
                size = opened.metadata.num_rows
            if keys.type != pa.binary(KEY_BYTES) or keys.null_count or len(keys) != size:
                raise ValueError("its keys do not have this format")
            without_error = rows.column("error").is_null()
            digests = bytes.fromhex("".join(rows.filter(without_error).column("file_sha256").to_pylist()))
            halves = np.frombuffer(digests, dtype=f"S{KEY_BYTES}").reshape(-1, 2)
            buffer = keys.buffers()[1]
            start = keys.offset * KEY_BYTES
            return (
                np.frombuffer(buffer, dtype=f"S{KEY_BYTES}", count=size, offset=start) if size else np.empty(0, "S16"),
                without_error.to_numpy(),
                halves[:, 0].copy(),
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            if isinstance(error, BatchError):
                raise
            raise BatchError(
                f"{name}: damaged, or not a Parquet file of a batch ({printable(error, 200)}); move it "
                "elsewhere, and its micrographs will be inspected again"
            ) from error

    def _forget(self, keys: list[bytes]) -> None:
        """Remove the noted rows of these keys from their files."""
        for file, retried in list(self._retried.items()):
            renewed = np.isin(retried, np.array(keys, dtype=retried.dtype))
            if renewed.any():
                table = self._parquet.read_table(file)
                again = self._compute.is_in(
                    table["key"], value_set=self._arrow.array(keys, self._arrow.binary(KEY_BYTES))
                )
                self._write_table(file, table.filter(self._compute.invert(again)))
                self._retried[file] = retried[~renewed]
                self.kept -= int(renewed.sum())

    def _check(self, name: str, metadata: Mapping[bytes, bytes]) -> None:
        found = metadata.get(b"fusion_diff.format", b"").decode("utf-8", "replace")
        if found != FORMAT:
            raise BatchError(
                f"{name}: has the format {printable(found, 80)!r}, but this version writes {FORMAT!r}; "
                "choose another folder, or continue with the version that wrote it"
            )
        run = dict(json.loads(metadata.get(b"fusion_diff.run", b"")))
        for key, said in _SAID.items():
            was, now = run.get(key), self._run.get(key)
            if was != now:
                raise BatchError(
                    f"{name}: was made with another setting ({said} was {printable(was, 80)} and is now "
                    f"{printable(now, 80)}), and rows of both must not be mixed; choose another folder, or "
                    "run with the earlier setting"
                )
