"""A batch from its source to its Parquet files, resuming an interrupted run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff import __version__
from fusion_diff.batch import ROWS
from fusion_diff.batch.done import KEY_BYTES
from fusion_diff.batch.engine import in_vain
from fusion_diff.batch.items import Item
from fusion_diff.batch.parts import ParquetOutput
from fusion_diff.batch.sources import list_source, list_sources
from fusion_diff.counted import counted
from fusion_diff.errors import ArgumentError, BatchError, FusionDiffError
from fusion_diff.inspection.run import same_bytes
from fusion_diff.micrograph.discover import warn_of_unread
from fusion_diff.printable import printable
from fusion_diff.trust.keys import load_public
from fusion_diff.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fusion_diff.batch.engine import Engine
    from fusion_diff.batch.rows import FinishedRow
    from fusion_diff.trust.ledger import Ledger

FLUSH_S = 120.0
"""Seconds after which a file is written with the rows so far. A run that is killed loses no more work than this."""
ERRORS_KEPT = 5
"""Number of errors that a summary holds, so that memory is bounded."""


@dataclass
class Summary:
    """Counts of a run.

    Attributes:
        skipped: micrographs done before, or listed twice.
        decisions: number of the other micrographs by decision, or `error`.
        same: micrographs with the same bytes as another with a row in the output.
        errors: what was wrong with the first `ERRORS_KEPT` micrographs that could not be inspected.
        kept: rows in the output, including those of earlier runs.
    """

    skipped: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    same: int = 0
    errors: list[str] = field(default_factory=list)
    kept: int = 0

    @property
    def finished(self) -> int:
        """Micrographs that this run inspected or found unreadable."""
        return self.decisions.total()


def run_batch(
    sources: str | Sequence[str],
    out: str | os.PathLike[str],
    engine: Engine,
    *,
    rows: int = ROWS,
    retry: bool = False,
    ledger: Ledger | None = None,
    progress: Callable[[Summary, int | None], None] | None = None,
) -> Summary:
    """Inspect the micrographs of one or more sources that are not done yet, and add their rows to the output.

    A run that is killed at any moment and started again neither loses nor repeats a row, because files are written
    atomically. The ledger has the line of every row before the file of the row is written. A run that is killed between
    the two inspects those micrographs again, and the ledger then holds both outcomes.

    A micrograph that could not be inspected for a reason that may lie elsewhere gets its row once another was inspected
    after it; at the end, one that is known to work is inspected again for this. Otherwise the run ends with an error,
    and the next looks at it again.

    Args:
        sources: a source or several, see `list_source`. A micrograph of several sources gets one row.
        out: the output folder, see `parts`.
        engine: inspects the micrographs.
        rows: maximum number of rows per file, and in memory.
        retry: inspect again what could not be inspected before; the new rows replace the old ones.
        ledger: one to append the outcome of each row to; given if, and only if, the engine's settings have `record`.
        progress: called after every row with the summary so far, and the number of micrographs in the sources or None.
            The sources are listed a second time, in the background, to find that number.

    Raises:
        ArgumentError: a ledger is given, but the engine makes no entries for one, or the other way round.
        BatchError: a source, the output or the cluster cannot be used, or no longer, or nothing can be inspected;
            finished rows are kept.
        DependencyError: a package is not installed.
        TrustError: a trusted key cannot be read, or the ledger is damaged or was replaced.

    Warns:
        UserWarning: image files of unsupported kinds were skipped, or micrographs have the same bytes.
    """
    settings = engine.settings
    if settings.record != (ledger is not None):
        raise ArgumentError(
            f"the settings of the engine have record={settings.record}; give a ledger with True, and only then"
        )
    noted = asdict(settings) | {
        "model_name": engine.model.get("name"),
        "model_sha256": engine.model.get("sha256"),
        "references_sha256": engine.model.get("references_sha256"),
        "trusted_keys": sorted(load_public(key).id for key in settings.trusted_keys) or None,
        "version": __version__,
    }
    del noted["heatmaps"], noted["record"]  # rows with and without them may be mixed
    named = [sources] if isinstance(sources, str) else list(dict.fromkeys(sources))
    unread: dict[str, Counter[str]] = {}
    listed = list_sources(named, Path(out), unread)
    first = next(listed, None)
    if first is None:
        raise BatchError("no source is given; name at least one")
    summary = Summary()
    doubtful: list[FinishedRow] = []
    known: list[Item] = []  # the last micrograph that was inspected, or else one that was done before
    with ParquetOutput(Path(out), noted, rows, retry=retry, ledger=ledger) as parts:
        count = None if progress is None else _SourceCounter(named, Path(out))
        try:
            written = time.monotonic()
            judged = engine.judge(_not_done(chain([first], listed), parts, summary, known))
            for finished in _beyond_doubt(judged, doubtful):
                if not finished.row.get("error"):
                    known[:] = [Item(finished.row["path"])]  # not found again if its name is not Unicode; this is rare
                _add(finished, parts, summary)
                if time.monotonic() - written > FLUSH_S:
                    parts.flush()
                    written = time.monotonic()
                if progress is not None and count is not None:
                    progress(summary, count.total)
            if doubtful:
                if not any(each.works for each in engine.judge(known)):
                    raise in_vain(doubtful[-1])
                for finished in doubtful:
                    _add(finished, parts, summary)
            parts.flush()
            for source, skipped in unread.items():
                warn_of_unread(printable(source), skipped)
            if summary.same:
                warn(same_bytes(summary.same))
        except BaseException as error:
            _keep(parts)
            if isinstance(error, FusionDiffError):
                error.args = (f"{error}; {counted(parts.kept, 'row is', 'rows are')} kept in {printable(out)}",)
            raise
        finally:
            if count is not None:
                count.stop()
        summary.kept = parts.kept
    return summary


def _not_done(listed: Iterable[Item], parts: ParquetOutput, summary: Summary, known: list[Item]) -> Iterator[Item]:
    for item in listed:
        if parts.done.add(item.key):
            yield item
        else:
            summary.skipped += 1
            if not known:
                known.append(item)


def _beyond_doubt(judged: Iterable[FinishedRow], doubtful: list[FinishedRow]) -> Iterator[FinishedRow]:
    """Yield rows; those whose error may lie elsewhere are held in `doubtful` until a later micrograph was inspected."""
    for finished in judged:
        if finished.works is False:
            doubtful.append(finished)
            continue
        if finished.works:
            yield from doubtful
            doubtful.clear()
        yield finished


def _add(finished: FinishedRow, parts: ParquetOutput, summary: Summary) -> None:
    """Add a row to the output, and count it. A verdict on the same bytes as another gets a note of it."""
    row = finished.row
    if row.get("decision") and not parts.judged.add(bytes.fromhex(row["file_sha256"])[:KEY_BYTES]):
        row["notes"].append("It has the same bytes as another micrograph with a row; file_sha256 finds it.")
        summary.same += 1
    parts.add(finished)
    summary.decisions[row.get("decision") or "error"] += 1
    if (error := row.get("error")) and len(summary.errors) < ERRORS_KEPT:
        summary.errors.append(error)


def _keep(parts: ParquetOutput) -> None:
    """Write the finished rows of a run that ends in an error. A second error is ignored in favour of the first."""
    try:
        parts.flush()
    except FusionDiffError:
        return


class _SourceCounter:
    """Counts the micrographs of sources in the background. `total` is None until the count is complete."""

    def __init__(self, sources: Sequence[str], out: Path) -> None:
        self.total: int | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._count, args=(sources, out), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop counting."""
        self._stopped = True
        self._thread.join(timeout=5)

    def _count(self, sources: Sequence[str], out: Path) -> None:
        count = 0
        try:
            for _ in chain.from_iterable(list_source(source, out) for source in sources):
                count += 1
                if self._stopped:
                    return
        except FusionDiffError:  # the run meets and raises the same error
            return
        self.total = count
