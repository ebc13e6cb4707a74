"""A batch from its source to its Parquet files, going on where an earlier run was cut off."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.batch.parts import ParquetOutput
from fusion_diff.batch.sources import expect_images, list_source
from fusion_diff.counted import counted
from fusion_diff.errors import BatchError, FusionDiffError
from fusion_diff.inspection.wording import package_version
from fusion_diff.micrograph.discover import warn_of_unread
from fusion_diff.printable import printable
from fusion_diff.trust.keys import load_public

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from fusion_diff.batch.items import Item
    from fusion_diff.batch.judging import Engine

ROWS = 2000
"""Rows of a file, and so those in memory, at most."""
FLUSH_S = 120.0
"""After so long a file is written with the rows there are: a run that is killed loses no more work."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        listed: micrographs that the source names.
        skipped: those that were done before, or named twice.
        decisions: how many of the others came to each decision, or to `error`.
        kept: rows in the output, those of earlier runs included.
    """

    listed: int = 0
    skipped: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    kept: int = 0

    @property
    def finished(self) -> int:
        """Micrographs that this run judged or found unreadable."""
        return self.decisions.total()


def run_batch(
    source: str,
    out: str | os.PathLike[str],
    engine: Engine,
    *,
    rows: int = ROWS,
    flush_s: float = FLUSH_S,
    retry: bool = False,
    progress: Callable[[Summary, int | None], None] | None = None,
) -> Summary:
    """Judge the micrographs of a source that are not done yet, and add their rows to the output.

    Killed at any moment and run again, it neither loses nor repeats a row: rows appear with their file, whole.

    Args:
        source: see `list_source`.
        out: the output folder, see `parts`.
        engine: what judges.
        rows: most rows of a file, and in memory.
        flush_s: a file is written after so many seconds, though there be fewer rows.
        retry: judge again what could not be inspected before; its rows are forgotten.
        progress: called after every row with the summary so far, and with the number of micrographs in the source once
            that is known.

    Raises:
        BatchError: the source, the output or the cluster is not usable (any more); what is done is kept.
        DependencyError: a package is not installed.
        TrustError: a trusted key cannot be read.

    Warns:
        UserWarning: pictures of kinds that are not read were passed over.
    """
    settings = engine.settings
    noted = {
        "model_name": engine.model.get("name"),
        "model_sha256": engine.model.get("sha256"),
        "references_sha256": engine.model.get("references_sha256"),
        "alpha": settings.alpha,
        "pixel_size_um": settings.pixel_size_um,
        "trusted_keys": sorted(load_public(key).id for key in settings.trusted_keys) or None,
        "version": package_version(),
    }
    unread = Counter[str]()
    listed = list_source(source, Path(out), unread)
    first = expect_images(source, listed, unread)
    summary = Summary()
    with ParquetOutput(Path(out), noted, rows, retry=retry) as parts:
        count = None if progress is None else _SourceCounter(source, Path(out))
        try:
            written = time.monotonic()
            for finished in engine.judge(_not_done(chain([first], listed), parts, summary)):
                parts.add(finished)
                summary.decisions[finished.row.get("decision") or "error"] += 1
                if time.monotonic() - written > flush_s:
                    parts.flush()
                    written = time.monotonic()
                if progress is not None and count is not None:
                    progress(summary, count.total)
            parts.flush()
            warn_of_unread(printable(source), unread)
        except BaseException as error:
            _keep(parts)
            if isinstance(error, FusionDiffError):
                raise type(error)(
                    f"{error}; {counted(parts.kept, 'row is', 'rows are')} kept in {printable(out)}"
                ) from error
            raise
        finally:
            if count is not None:
                count.stop()
        summary.kept = parts.kept
    return summary


def _not_done(listed: Iterable[Item], parts: ParquetOutput, summary: Summary) -> Iterator[Item]:
    for item in listed:
        summary.listed += 1
        if parts.done.add(item.key):
            yield item
        else:
            summary.skipped += 1


def _keep(parts: ParquetOutput) -> None:
    """Write what is done although the run ends in an error, which is the one to tell of."""
    try:
        parts.flush()
    except BatchError:
        return


class _SourceCounter:
    """Counts the micrographs of a source in the background; until it is through, the time left is not known."""

    def __init__(self, source: str, out: Path) -> None:
        self.total: int | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._count, args=(source, out), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End counting."""
        self._stopped = True
        self._thread.join(timeout=5)

    def _count(self, source: str, out: Path) -> None:
        count = 0
        try:
            for _ in list_source(source, out):
                count += 1
                if self._stopped:
                    return
        except FusionDiffError:  # the run finds the same and tells of it
            return
        self.total = count
