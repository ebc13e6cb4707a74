"""Pictures and report of an inspection: thumbnail, native window and heat map as PNG, and the HTML report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

from fusion_diff.service.problems import NotFoundError
from fusion_diff.service.store import unpacked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.inspection.run import Overruling
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service.store import Store
    from fusion_diff.service.tables import Inspection as Row
    from fusion_diff.verdict.result import EvidenceMap, Inspection

WINDOW_SIDE = 2048
"""Longest side of a window in native pixels."""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return grey (h, w) or colour (h, w, 3) pixels as a PNG file, compressed fast."""
    from PIL import Image

    from fusion_diff.inspection import draw

    return draw.encoded(Image.fromarray(pixels), "PNG", fast=True)


def window(micrograph: Micrograph, top: int, left: int, height: int, width: int) -> bytes:
    """Return a window of a micrograph at native size as PNG.

    The contrast is stretched as in the thumbnail. The window is clipped at the edges.

    Raises:
        NotFoundError: the window lies outside the micrograph.
    """
    import numpy as np

    height, width = min(height, micrograph.height - top), min(width, micrograph.width - left)
    if height < 1 or width < 1:
        raise NotFoundError(
            f"the window is outside the micrograph of {micrograph.width} x {micrograph.height} pixels; choose another"
        )
    low, high = micrograph.contrast_range
    level = ((micrograph.window(top, left, height, width) - low) / (high - low)).clip(0, 1)
    return png(np.rint(level * 255).astype(np.uint8))


def evidence(row: Row, store: Store) -> EvidenceMap:
    """Return the evidence map of an inspection."""
    from fusion_diff.verdict.result import EvidenceMap

    values = unpacked(store.get(row.evidence_sha256))
    return EvidenceMap(values, row.evidence_scale, row.result["height"], row.result["width"])


def heat_map(row: Row, store: Store) -> bytes:
    """Return the heat map of an inspection as PNG, transparent where there is no evidence."""
    from fusion_diff.inspection import draw

    found = evidence(row, store)
    limit = draw.heat_limit([found], [row.result["threshold"]])
    return draw.encoded(draw.heat_map(found, limit), "PNG")


def no_evidence(row: Row) -> EvidenceMap:
    """Return an empty evidence map for an inspection whose own is lost."""
    import numpy as np

    from fusion_diff.verdict.result import EvidenceMap

    return EvidenceMap(np.zeros((1, 1), np.float32), row.evidence_scale, row.result["height"], row.result["width"])


def verdict(row: Row, found: EvidenceMap) -> Inspection:
    """Return the inspection as the model made it, with its evidence map."""
    from fusion_diff.verdict.compared import Compared
    from fusion_diff.verdict.result import Inspection, NearestReference, RecognisedSurface, Region

    told = row.result
    recognised = told.get("recognised")
    return Inspection(
        **told
        | {
            "evidence": found,
            "regions": tuple(Region(**each) for each in told["regions"]),
            "nearest": tuple(NearestReference(**each) for each in told["nearest"]),
            "reasons": tuple(told["reasons"]),
            "notes": tuple(told["notes"]),
            "compared_with": Compared(**told["compared_with"]),
            "recognised": None if recognised is None else RecognisedSurface(**recognised),
        }
    )


def overruling(row: Row) -> Overruling | None:
    """Return the expert's overruling; None if the model's decision stands."""
    from fusion_diff.inspection.run import Overruling

    if row.overruled_decision is None:
        return None
    assert row.overruled_by is not None
    assert row.overruled_at is not None
    assert row.overruled_reason is not None
    return Overruling(
        decision=cast("Decision", row.overruled_decision),
        by=row.overruled_by,
        at=row.overruled_at,
        reason=row.overruled_reason,
    )


def report(row: Row, version: str, store: Store) -> bytes:
    """Return the report of an inspection as one HTML file with embedded pictures.

    Args:
        row: the inspection.
        version: version of FusionDiff that made it.
        store: keeps its pictures.
    """
    from pathlib import Path

    import numpy as np
    from PIL import Image

    from fusion_diff.inspection.report import report_page
    from fusion_diff.inspection.run import Outcome, Recorded

    with Image.open(io.BytesIO(store.get(row.thumbnail_sha256))) as picture:
        thumbnail = np.asarray(picture)
    outcome = Outcome(
        Path(row.name),
        inspection=verdict(row, evidence(row, store)),
        thumbnail=thumbnail,
        overruled=overruling(row),
        judged=row.created,
        recorded=Recorded(row.id, row.by, version, row.ledger_sequence),
    )
    return "".join(report_page([outcome])).encode()
