"""Judging the micrographs of a batch: one after the other here, or by the same function on a cluster's machines."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fusion_diff.batch.items import local_file
from fusion_diff.batch.rows import Finished, to_row
from fusion_diff.errors import MicrographError
from fusion_diff.inspection.run import Inspector, Outcome, inspect_paths
from fusion_diff.printable import printable
from fusion_diff.trust.verdict import identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fusion_diff.batch.items import Item
    from fusion_diff.result import Inspection


@dataclass(frozen=True)
class Settings:
    """How the micrographs of a batch are judged.

    Attributes:
        alpha: error rate among verdicts, in (0, 1).
        pixel_size_um: pixel size for every file, in place of what the files say.
        heatmaps: whether to draw a heat map of each.
    """

    alpha: float = 0.1
    pixel_size_um: float | None = None
    heatmaps: bool = False


class Engine(Protocol):
    """Judges micrographs, here or elsewhere."""

    @property
    def model(self) -> Mapping[str, str | None]:
        """The `name`, `sha256` and `references_sha256` of what judges."""

    @property
    def settings(self) -> Settings:
        """How it judges."""

    def judge(self, items: Iterable[Item]) -> Iterator[Finished]:
        """Yield every item's row, in any order."""


class Here:
    """Judges micrographs in this process, one after the other."""

    def __init__(self, inspector: Inspector, settings: Settings) -> None:
        self.settings = settings
        self.model = identity(inspector)
        self._inspector = inspector

    def judge(self, items: Iterable[Item]) -> Iterator[Finished]:
        """Yield every item's row, in order."""
        return (judge_item(self._inspector, item, self.settings, self.model) for item in items)


def load_inspector(name: str, device: str) -> Inspector:
    """Load a model by name, folder or hub id onto a device, or an exported one."""
    from fusion_diff.edge.session import EdgeSession, is_exported

    if is_exported(name):
        return EdgeSession.load(name, device=device)
    from fusion_diff.model import DiffusionModel

    return DiffusionModel.from_pretrained(name).to(device)


def judge_item(inspector: Inspector, item: Item, settings: Settings, model: Mapping[str, str | None]) -> Finished:
    """Read and judge one micrograph; what is wrong with its file is said in its row.

    Raises:
        BatchError: its store does not answer, or there is no room here for the file.
    """
    started = time.perf_counter()
    try:
        with local_file(item) as file:
            (outcome,) = inspect_paths(
                inspector, [file], alpha=settings.alpha, pixel_size_um=settings.pixel_size_um, thumbnails=False
            )
            if item.remote and outcome.error is not None:
                outcome = Outcome(file, error=outcome.error.replace(str(file), printable(item.path)))
            row = to_row(item, outcome, file, model, settings.alpha, time.perf_counter() - started)
    except MicrographError as error:  # the store answers, and does not have it
        outcome = Outcome(Path(item.path), error=str(error))
        row = to_row(item, outcome, None, model, settings.alpha, time.perf_counter() - started)
    drawn = settings.heatmaps and outcome.inspection is not None
    return Finished(row, _heatmap(outcome.inspection) if drawn and outcome.inspection else None)


def failed(item: Item, settings: Settings, model: Mapping[str, str | None], error: str) -> Finished:
    """Return the row of a micrograph that could not be judged for a reason that lies not in its file."""
    return Finished(to_row(item, Outcome(Path(item.path), error=error), None, model, settings.alpha, 0.0))


def _heatmap(inspection: Inspection) -> bytes:
    from fusion_diff.inspection import draw

    # As in a report, but without the typical peak, which no worker knows: one limit for all micrographs of a model.
    limit = max(2.0, 1.5 * inspection.threshold) if math.isfinite(inspection.threshold) else 2.0
    return draw.encoded(draw.heat_map(inspection.evidence, limit), "PNG")
