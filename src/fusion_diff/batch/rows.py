"""The rows of a batch: one per micrograph, with its result or its error.

The metadata of every Parquet file hold `fusion_diff.format`, the name and version of this schema, and
`fusion_diff.run`, the model and settings of all its rows as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fusion_diff.dependencies import needed
from fusion_diff.inspection.record import MAX_ERROR_CHARACTERS, digest_of_failed, finite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fusion_diff.batch.items import Item
    from fusion_diff.inspection.run import Outcome

FORMAT = "fusion-diff/batch/5"
_REGION_INTEGERS = ("top", "left", "height", "width", "area_px")
_REGION_NUMBERS = (
    "centroid_row",
    "centroid_column",
    "peak_evidence",
    "mean_evidence",
    "area_um2",
    "centroid_x_um",
    "centroid_y_um",
    "length_um",
)


@dataclass(frozen=True)
class FinishedRow:
    """The row of a finished micrograph.

    Attributes:
        row: see `schema`.
        heatmap: its heat map as a PNG, if requested.
        works: whether it shows that micrographs can be inspected: True if it was, or another after it; False if it was
            not, for a reason that may lie outside of its file; None if it was not because of its file.
        entry: what a ledger keeps of it, if requested.
    """

    row: dict[str, Any]
    heatmap: bytes | None = None
    works: bool | None = None
    entry: dict[str, Any] | None = None


def schema() -> Any:
    """Return the pyarrow schema of the rows.

    ==================  ==============  ================================================================================
    column              type            content
    ==================  ==============  ================================================================================
    path                string          absolute path or address; bytes that are not Unicode as escapes
    key                 16 bytes        BLAKE2b of the unescaped path; identifies the micrograph across runs
    judged              timestamp       when it was judged, or found that it cannot be, in UTC
    file_sha256         string          of the file's bytes; null if they could not be read
    score               float64         probability of being authentic
    calibrated          bool            false if the score only ranks
    decision            string          authentic, not authentic or inconclusive; null if there is an error
    predicted_class     string          the most likely class
    in_scope            bool            false if the micrograph is unlike every reference
    p_authentic         float64         conformal p-value of being authentic
    p_not_authentic     float64         conformal p-value of not being authentic; null with authentic references alone
    alpha               float64         error rate of the decision
    height, width       int32           in pixels
    pixel_size_um       float64         null if unknown
    page                int32           page of the file, from 0, if it was chosen or is not the first; else null
    reasons             list of string  the verdict in sentences, the gravest reason first; null if there is an error
    notes               list of string  remarks on how the file was read
    regions             list of struct  as `Region`: boxes and areas in pixels and µm, evidence in log-odds
    error               string          what is wrong with the file and what to do; null if there is a verdict
    model_sha256        string          digest of the model
    references_sha256   string          digest of the enrolled references
    seconds             float64         time taken, reading excluded; null if there is an error
    heatmap             string          the heat map's file, relative to the folder; null if not requested
    ==================  ==============  ================================================================================

    Raises:
        DependencyError: pyarrow is not installed.
    """
    pa = needed("this batch", "pyarrow", "batch")
    region = pa.struct(
        [pa.field(name, pa.int64()) for name in _REGION_INTEGERS]
        + [pa.field(name, pa.float64()) for name in _REGION_NUMBERS]
    )
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("key", pa.binary(16), nullable=False),
            pa.field("judged", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("file_sha256", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("calibrated", pa.bool_()),
            pa.field("decision", pa.string()),
            pa.field("predicted_class", pa.string()),
            pa.field("in_scope", pa.bool_()),
            pa.field("p_authentic", pa.float64()),
            pa.field("p_not_authentic", pa.float64()),
            pa.field("alpha", pa.float64(), nullable=False),
            pa.field("height", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("pixel_size_um", pa.float64()),
            pa.field("page", pa.int32()),
            pa.field("reasons", pa.list_(pa.string())),
            pa.field("notes", pa.list_(pa.string())),
            pa.field("regions", pa.list_(region)),
            pa.field("error", pa.string()),
            pa.field("model_sha256", pa.string()),
            pa.field("references_sha256", pa.string()),
            pa.field("seconds", pa.float64()),
            pa.field("heatmap", pa.string()),
        ]
    )


def to_row(
    item: Item, outcome: Outcome, file: Path | None, model: Mapping[str, str | None], alpha: float
) -> dict[str, Any]:
    """Return the row of an outcome.

    Args:
        item: the micrograph.
        outcome: its inspection or its error.
        file: local file with its bytes; None if they could not be fetched.
        model: `sha256` and `references_sha256` of the model, which outcomes with an error do not hold.
        alpha: requested error rate.
    """
    row: dict[str, Any] = {"path": _text(item.path), "key": item.key, "judged": outcome.judged, "alpha": alpha}
    it = outcome.inspection
    if it is None:
        error = _text(outcome.error or "it could not be inspected")[:MAX_ERROR_CHARACTERS]
        names = {"model_sha256": model.get("sha256"), "references_sha256": model.get("references_sha256")}
        return row | names | {"file_sha256": digest_of_failed(file), "error": error}
    return row | {
        "file_sha256": it.file_sha256,
        "score": finite(it.score),
        "calibrated": bool(it.calibrated),
        "decision": it.decision,
        "predicted_class": _text(it.predicted_class),
        "in_scope": bool(it.in_scope),
        "p_authentic": finite(it.p_values.get("authentic")),
        "p_not_authentic": finite(it.p_values.get("not authentic")),
        "height": it.height,
        "width": it.width,
        "pixel_size_um": it.pixel_size_um,
        "page": it.page,
        "reasons": [_text(reason) for reason in it.reasons],
        "notes": [_text(note) for note in it.notes],
        "regions": [asdict(region) for region in it.regions],
        "model_sha256": it.model_sha256,
        "references_sha256": it.references_sha256,
        "seconds": it.seconds,
    }


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
