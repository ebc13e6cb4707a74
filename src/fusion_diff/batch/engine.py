"""Inspection of the micrographs of a batch, in this process or, by the same function, on the machines of a cluster."""

from __future__ import annotations

import math
import os
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fusion_diff.batch.items import expect_signable, local_file
from fusion_diff.batch.rows import FinishedRow, to_row
from fusion_diff.errors import BatchError, EnrolmentError, FetchError, FusionDiffError, MicrographError, TrustError
from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.run import Outcome, inspect_paths
from fusion_diff.printable import printable
from fusion_diff.trust.signed import SignedFiles
from fusion_diff.verdict.inspector import identity
from fusion_diff.verdict.reasons import undecidable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fusion_diff.batch.items import Item
    from fusion_diff.verdict.inspector import Inspector
    from fusion_diff.verdict.result import Inspection

MOST_GIVEN_UP = 10
"""Number of micrographs that may be given up in a row; at more, the machine, source, model or cluster is at fault."""


@dataclass(frozen=True)
class Settings:
    """Settings of the inspection of a batch.

    Attributes:
        alpha: error rate on either side, in (0, 1).
        pixel_size_um: pixel size of every file, overriding the files' metadata.
        heatmaps: whether to draw a heat map of each micrograph.
        trusted_keys: files of public keys. If there are any, a micrograph signed by none of them is not parsed, and
            its row holds an error.
        page: page to read of every file, from 0; None chooses it by file.
        max_pixels: maximum size of a micrograph in pixels; None is the default of `load_microstructure_data`.
        record: whether to make the ledger entry of each micrograph.
    """

    alpha: float = 0.1
    pixel_size_um: float | None = None
    heatmaps: bool = False
    trusted_keys: tuple[str, ...] = ()
    page: int | None = None
    max_pixels: int | None = None
    record: bool = False


class Engine(Protocol):
    """Inspects micrographs, in this process or on a cluster."""

    @property
    def model(self) -> Mapping[str, str | None]:
        """The `name`, `sha256` and `references_sha256` of the model."""

    @property
    def settings(self) -> Settings:
        """Settings of the inspection."""

    def judge(self, items: Iterable[Item]) -> Iterator[FinishedRow]:
        """Yield the row of every item, in any order."""


class LocalEngine:
    """Inspects micrographs in this process, one after the other."""

    def __init__(self, inspector: Inspector, settings: Settings) -> None:
        """Keep the model and the settings.

        Raises:
            EnrolmentError: the model has no references.
            TrustError: a trusted key cannot be read.

        Warns:
            UserWarning: there are too few references to decide on any micrograph.
        """
        self.settings = settings
        self.model = identity(inspector)
        if inspector.enrolment is None:
            raise EnrolmentError(
                f"{self.model['name']}: it has no enrolled references; enrol some first, with `fusion-diff enroll`"
            )
        if (why := undecidable(inspector.enrolment, settings.alpha)) is not None:
            warn(f"nothing can be decided: {why}")
        self._inspector = inspector
        self._signed = SignedFiles(settings.trusted_keys) if settings.trusted_keys else None
        self._inspected: Item | None = None
        self._in_vain = 0

    def judge(self, items: Iterable[Item]) -> Iterator[FinishedRow]:
        """Yield the row of every item, in order."""
        return map(self.judge_one, items)

    def judge_one(self, item: Item) -> FinishedRow:
        """Read and inspect one micrograph. What keeps it from being inspected becomes an error in its row.

        After `MOST_GIVEN_UP` in a row that were not, for a reason that may lie elsewhere, the last one that was is
        inspected once more. If that works, the files are at fault.

        Raises:
            BatchError: the store does not answer, or too many micrographs in a row could not be inspected.
        """
        finished = self._judged(item)
        if finished.works:
            self._inspected, self._in_vain = item, 0
        elif finished.works is False:
            self._in_vain += 1
            if self._in_vain > MOST_GIVEN_UP:
                if self._inspected is None or not self._judged(self._inspected).works:
                    raise in_vain(finished)
                finished, self._in_vain = replace(finished, works=True), 0
        return finished

    def _judged(self, item: Item) -> FinishedRow:
        asked = self.settings
        try:
            if self._signed is not None:
                expect_signable(item)
            with local_file(item) as file:
                (outcome,) = inspect_paths(
                    self._inspector,
                    [file],
                    alpha=asked.alpha,
                    pixel_size_um=asked.pixel_size_um,
                    page=asked.page,
                    max_pixels=asked.max_pixels,
                    signed_sha256=self._signed.digest if self._signed else None,
                    thumbnails=False,
                )
                if item.remote and outcome.error is not None:
                    outcome = replace(outcome, error=outcome.error.replace(str(file), printable(item.path)))
                row = to_row(item, outcome, file, self.model, asked.alpha)
                readable = os.access(file, os.R_OK)
            it, entry = outcome.inspection, _entry(outcome, row, asked, self.model)
            if it is None:
                return FinishedRow(row, works=False if outcome.elsewhere or not readable else None, entry=entry)
            return FinishedRow(row, _heatmap(it) if asked.heatmaps else None, works=True, entry=entry)
        except (MicrographError, TrustError) as error:  # it cannot be fetched, or its store cannot hold a signature
            works = False if isinstance(error, FetchError) else None
            return failed(item, asked, self.model, str(error), works=works)
        except FusionDiffError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = (
                f"{printable(item.path)}: the program failed at it ({type(error).__name__}: {printable(error, 200)}; "
                f"{Path(place.filename).name}, line {place.lineno}); report this"
            )
            return failed(item, asked, self.model, said, works=False)


def failed(
    item: Item, settings: Settings, model: Mapping[str, str | None], error: str, *, works: bool | None = None
) -> FinishedRow:
    """Return the row of a micrograph whose file was not parsed."""
    outcome = Outcome(Path(item.path), error=error)
    row = to_row(item, outcome, None, model, settings.alpha)
    return FinishedRow(row, works=works, entry=_entry(outcome, row, settings, model))


def _entry(
    outcome: Outcome, row: Mapping[str, Any], settings: Settings, model: Mapping[str, str | None]
) -> dict[str, Any] | None:
    """Return the ledger entry of an outcome; None where none is asked for."""
    if not settings.record:
        return None
    made = verdict(
        replace(outcome, path=Path()),  # so that no file is read again for a digest that the row has
        alpha=settings.alpha,
        pixel_size_um=settings.pixel_size_um,
        page=settings.page,
        max_pixels=settings.max_pixels,
        model=model,
    )
    # A micrograph from a store was read from a copy, which has another name.
    return made | {"file": row["path"], "file_sha256": row["file_sha256"]}


def in_vain(finished: FinishedRow) -> BatchError:
    """Return the error for a run that inspects nothing any more."""
    return BatchError(
        "no micrograph can be inspected any more, so the fault may lie elsewhere than in the file. "
        f"{finished.row['error']}; then run the same command again"
    )


def _heatmap(inspection: Inspection) -> bytes:
    from fusion_diff.inspection import draw

    # One limit for all micrographs of a model. Reports also use the typical peak, which workers do not know.
    limit = max(2.0, 1.5 * inspection.threshold) if math.isfinite(inspection.threshold) else 2.0
    return draw.encoded(draw.heat_map(inspection.evidence, limit), "PNG")
