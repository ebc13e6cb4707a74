"""What an inspection returns: one object from the verdict to the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusion_diff.interpolation import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Decision = Literal["authentic", "not authentic", "inconclusive"]
NEAREST = 3
"""References that a verdict names as the most alike."""


@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """Evidence against authenticity over a micrograph, kept at the encoder's token stride.

    Attributes:
        values: float32 (rows, columns), one value per token; positive where the micrograph looks unlike the authentic
            references, 0 where the two are equally likely, in units of log-odds.
        scale: tokens per native pixel along each side (1/8 when the micrograph was read at native resolution).
        height: native height of the micrograph in pixels.
        width: native width of the micrograph in pixels.
    """

    values: NDArray[np.float32]
    scale: float
    height: int
    width: int

    def native(
        self, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None
    ) -> NDArray[np.float32]:
        """Return the map at native resolution, bilinearly interpolated, whole or for a window.

        Args:
            top: first row of the window, in native pixels.
            left: first column of the window, in native pixels.
            height: rows of the window; to the bottom when omitted.
            width: columns of the window; to the right edge when omitted.

        Returns:
            float32 (height, width). Ask for a window when the micrograph is very large.
        """
        height = self.height - top if height is None else height
        width = self.width - left if width is None else width
        # Token i covers native pixels [i/scale, (i+1)/scale): its value sits at the centre of that span.
        rows = ((np.arange(top, top + height) + 0.5) * self.scale - 0.5).astype(np.float32)
        columns = ((np.arange(left, left + width) + 0.5) * self.scale - 0.5).astype(np.float32)
        out = np.empty((height, width), dtype=np.float32)
        for start in range(0, height, 512):  # bands bound what is held besides the result
            out[start : start + 512] = interpolate(self.values, rows[start : start + 512], columns)
        return out

    def thumbnail(self, max_side: int = 512) -> NDArray[np.float32]:
        """Return the map with the micrograph's aspect, its longer side at most `max_side` pixels."""
        factor = min(1.0, max_side / max(self.height, self.width))
        height, width = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        rows = (np.arange(height) + 0.5) / height * self.height * self.scale - 0.5
        columns = (np.arange(width) + 0.5) / width * self.width * self.scale - 0.5
        return interpolate(self.values, rows, columns)


@dataclass(frozen=True)
class Region:
    """A connected part of a micrograph that departs from the authentic references.

    Lengths are native pixels; the `_um` fields are None where the pixel size is unknown.
    """

    top: int
    left: int
    height: int
    width: int
    centroid_row: float
    centroid_column: float
    area_px: int
    peak_evidence: float
    mean_evidence: float
    area_um2: float | None = None
    centroid_x_um: float | None = None
    centroid_y_um: float | None = None


@dataclass(frozen=True)
class NearestReference:
    """A reference that resembles the micrograph: cosine similarity of pooled tokens, 1 is identical."""

    name: str
    label: str
    similarity: float


@dataclass(frozen=True)
class RecognisedSurface:
    """A reference that shows the same surface as the micrograph: so many keypoints lie alike on both."""

    name: str
    label: str
    points: int


@dataclass(frozen=True, eq=False)
class Inspection:
    """The verdict on one micrograph, and everything needed to understand and repeat it."""

    source: str | None
    file_sha256: str | None
    model_name: str
    model_sha256: str
    references_sha256: str
    score: float
    """Calibrated probability of being authentic, in [0, 1]."""
    decision: Decision
    in_scope: bool
    """False where the micrograph as a whole is unlike every reference: the decision is then `inconclusive`."""
    predicted_class: str
    p_values: dict[str, float]
    """Conformal p-value of `authentic` and `not authentic` (one key where only authentic references were enrolled)."""
    alpha: float
    """Error rate among verdicts that the decision was made for."""
    evidence: EvidenceMap
    threshold: float
    """Evidence above this is listed as a region."""
    regions: tuple[Region, ...]
    nearest: tuple[NearestReference, ...]
    contributions: dict[str, float]
    """What each kind of evidence adds to the log-odds of not being authentic."""
    reasons: tuple[str, ...]
    """The verdict in sentences."""
    height: int
    width: int
    pixel_size_um: float | None
    instrument: str | None
    seconds: float
    """Time taken, reading excluded."""
    purified: bool = False
    """Whether the verdict is on the micrograph as the diffusion prior purified it."""
    attacked: bool | None = None
    """Whether purification changes the score more than untouched micrographs' scores; None where it was not asked."""
    recognised: RecognisedSurface | None = None
    """The reference whose very surface this is; None where none was recognised or the references are not told apart
    by their surfaces."""

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain JSON-ready values, without the evidence map (its shape and extremes only)."""
        from dataclasses import asdict, fields

        plain: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("evidence", "regions", "nearest", "recognised", "reasons")
        }
        plain["evidence"] = {
            "max": float(self.evidence.values.max()),
            "mean": float(self.evidence.values.mean()),
            "shape": list(self.evidence.values.shape),
        }
        plain["regions"] = [asdict(region) for region in self.regions]
        plain["nearest"] = [asdict(reference) for reference in self.nearest]
        plain["reasons"] = list(self.reasons)
        if self.recognised is not None:
            plain["recognised"] = asdict(self.recognised)
        for name, unasked in (("purified", False), ("attacked", None)):
            if plain[name] is unasked:
                del plain[name]
        return plain
