"""What an inspection returns: one object from the verdict to the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError
from fusion_diff.verdict.interpolation import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.verdict.compared import Compared

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

        Raises:
            MicrographError: the window does not lie within the micrograph.
        """
        height = self.height - top if height is None else height
        width = self.width - left if width is None else width
        if top < 0 or left < 0 or height < 1 or width < 1 or top + height > self.height or left + width > self.width:
            raise MicrographError(
                f"the window of {height}x{width} pixels at row {top}, column {left} does not lie within the micrograph "
                f"of {self.height}x{self.width}; clip it to the micrograph"
            )
        # Token i covers native pixels [i/scale, (i+1)/scale): its value sits at the centre of that span.
        rows = ((np.arange(top, top + height) + 0.5) * self.scale - 0.5).astype(np.float32)
        columns = ((np.arange(left, left + width) + 0.5) * self.scale - 0.5).astype(np.float32)
        out = np.empty((height, width), dtype=np.float32)
        for start in range(0, height, 512):  # bands bound what is held besides the result
            out[start : start + 512] = interpolate(self.values, rows[start : start + 512], columns)
        return out

    def resized(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the whole map in any size, bilinearly interpolated: float32 (height, width)."""
        rows = (np.arange(height) + 0.5) * (self.height * self.scale / height) - 0.5
        columns = (np.arange(width) + 0.5) * (self.width * self.scale / width) - 0.5
        return interpolate(self.values, rows, columns)


@dataclass(frozen=True)
class Region:
    """A connected part of a micrograph that departs from the authentic references.

    Positions are measured from the outer top left corner of the micrograph, in native pixels, or in micrometres with x
    to the right and y down; the latter are None where the pixel size is unknown.

    Attributes:
        top: first row of the region's box.
        left: first column.
        height: rows of the box.
        width: columns of the box.
        centroid_row: row of the centroid, weighted by area.
        centroid_column: its column.
        area_px: area in square pixels, at least 1.
        peak_evidence: greatest evidence in the region, in log-odds of not being authentic.
        mean_evidence: its mean over the area, in log-odds.
        area_um2: area in µm².
        centroid_x_um: column of the centroid in µm.
        centroid_y_um: row of the centroid in µm.
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
    """A reference that resembles the micrograph.

    Attributes:
        name: of the reference.
        label: its class.
        similarity: cosine of the two mean standardised tokens, in [-1, 1]; 1 is identical.
    """

    name: str
    label: str
    similarity: float


@dataclass(frozen=True)
class RecognisedSurface:
    """A reference that shows the same surface as the micrograph.

    Attributes:
        name: of the reference.
        label: its class.
        points: keypoints that lie alike on both.
    """

    name: str
    label: str
    points: int


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """The verdict on one micrograph, and everything needed to understand and repeat it."""

    source: str | None
    """File that the micrograph was read from, as it was named; None where it came from memory."""
    file_sha256: str | None
    """Digest of the file's bytes, or of the array's where it came from memory, in hexadecimal."""
    model_name: str
    """Name of the model that judged."""
    model_sha256: str
    """Its `sha256`, which names the exact weights."""
    references_sha256: str
    """Digest of the references that it judged by."""
    score: float
    """Probability of being authentic, in [0, 1]; calibrated where `calibrated` says so."""
    decision: Decision
    """The answer at the error rate `alpha`; `inconclusive` where the references allow none."""
    in_scope: bool
    """False where the micrograph as a whole is unlike every reference, or its pixel size lies more than 1.5 times
    beyond those of the references: the decision is then `inconclusive`, and the score means nothing."""
    predicted_class: str
    """The forced choice: the authentic class where the score is 0.5 or more, else the nearest of the others (`not …`
    where there is none)."""
    p_values: dict[str, float]
    """Conformal p-value of `authentic` and `not authentic`, in (0, 1] (one key where only authentic references were
    enrolled, none where there were too few to cross-fit)."""
    alpha: float
    """Error rate that the decision was made for, in (0, 1): of authentic micrographs at most this share is called not
    authentic, and likewise of the others. Of the verdicts that are decided more may be wrong."""
    evidence: EvidenceMap
    """Where it looks unlike the authentic references, in log-odds."""
    threshold: float
    """Evidence above this, in log-odds, is listed as a region."""
    regions: tuple[Region, ...]
    """Connected parts above the threshold, the strongest first."""
    nearest: tuple[NearestReference, ...]
    """The references that it resembles most, the nearest first."""
    contributions: dict[str, float]
    """What each kind of evidence adds to `offset` in the log-odds of not being authentic, `log(1 / score - 1)`."""
    reasons: tuple[str, ...]
    """The verdict in sentences, the gravest reason first."""
    height: int
    """Height of the micrograph in native pixels, without a data bar that was cut off."""
    width: int
    """Width of the micrograph in native pixels."""
    pixel_size_um: float | None
    """Side of a native pixel in µm; None where it is unknown."""
    instrument: str | None
    """What took the micrograph, as its file says; None where it does not."""
    seconds: float
    """Time taken, in seconds, reading excluded."""
    offset: float
    """The log-odds that `contributions` are added to, the same for every micrograph."""
    compared_with: Compared
    """The references in short."""
    purified: bool = False
    """Whether the verdict is on the micrograph as the diffusion prior purified it."""
    attacked: bool | None = None
    """Whether purification changes the score more than untouched micrographs' scores; None where it was not asked."""
    recognised: RecognisedSurface | None = None
    """The reference whose very surface this is; None where none was recognised or the references are not told apart
    by their surfaces."""
    calibrated: bool = True
    """False where the score only ranks: too few references were enrolled to cross-fit, and nothing is decided; or
    authentic ones alone, and even odds lie one deviation from them by convention."""
    notes: tuple[str, ...] = ()
    """What reading did to the file or could not tell of it, in sentences."""
    page: int | None = None
    """Which page of the file it is, from 0, where one was asked for or another than the first was read."""

    def __repr__(self) -> str:
        """Return the verdict in short."""
        page = "" if self.page is None else f" page {self.page}"
        score = f"score {self.score:.3f}" if self.calibrated else f"score {self.score:.3f} (not calibrated)"
        decision = self.decision if self.in_scope else "out of scope"
        return f"Inspection({self.source!r}{page}: {decision}, {score}, {counted(len(self.regions), 'region')})"

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain JSON-ready values, without the evidence map (its shape and extremes only)."""
        from dataclasses import asdict, fields

        plain: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("evidence", "regions", "nearest", "recognised", "reasons", "compared_with", "notes")
        }
        plain["evidence"] = {
            "max": float(self.evidence.values.max()),
            "mean": float(self.evidence.values.mean()),
            "shape": list(self.evidence.values.shape),
        }
        plain["regions"] = [asdict(region) for region in self.regions]
        plain["nearest"] = [asdict(reference) for reference in self.nearest]
        plain["reasons"] = list(self.reasons)
        plain["notes"] = list(self.notes)
        plain["compared_with"] = asdict(self.compared_with)
        if self.recognised is not None:
            plain["recognised"] = asdict(self.recognised)
        for name, unasked in (("purified", False), ("attacked", None), ("page", None)):
            if plain[name] is unasked:
                del plain[name]
        return plain
