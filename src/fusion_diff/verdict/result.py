"""Result of an inspection: the `Inspection`, used from the verdict to the report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.counted import counted
from fusion_diff.errors import ArgumentError, MicrographError
from fusion_diff.verdict.interpolation import interpolate

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.verdict.compared import Compared

NEAREST = 3
"""Number of nearest references that a verdict names."""


def _is_length(pixels: object) -> bool:
    return isinstance(pixels, Integral) and 1 <= int(pixels) < 2**31


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceMap:
    """Map of the evidence against authenticity, one value per token.

    Attributes:
        values: float32 (rows, columns) log-odds of each token; positive where the micrograph looks unlike the authentic
            references, 0 at even odds. Read-only.
        scale: tokens per native pixel along each side (1/8 where the micrograph was read at native resolution).
        height: native height of the micrograph in pixels.
        width: native width of the micrograph in pixels.

    Raises:
        ArgumentError: the values are no such array, a side is not an integer of at least 1, or the scale not positive.
    """

    values: NDArray[np.float32]
    scale: float
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the fields, and take a read-only copy of the values."""
        values = self.values
        if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind != "f":
            raise ArgumentError("values: give an evidence map a NumPy array of floats (rows, columns), not empty")
        sides, scale = (self.height, self.width), self.scale
        if not all(_is_length(side) for side in sides) or not isinstance(scale, Real) or not 0 < scale < math.inf:
            raise ArgumentError(
                f"an evidence map cannot be of {self.height!r} x {self.width!r} pixels with {self.scale!r} tokens per "
                "pixel; give integers from 1, and a positive number"
            )
        values = values.copy()
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or copied map, whose values would be writeable otherwise."""
        self.__dict__.update(state)
        self.values.flags.writeable = False

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the values, so that NumPy and plotting libraries take the map for an array (rows, columns).

        To lay it over the micrograph, use `native`: the last row and column may reach beyond the edge.
        """
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        """Return the sizes and the range in a line."""
        rows, columns = self.values.shape
        span = f", {self.values.min():.2f} to {self.values.max():.2f}"
        return f"EvidenceMap({rows} x {columns} tokens of {self.height} x {self.width} pixels{span} log-odds)"

    def native(
        self, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None
    ) -> NDArray[np.float32]:
        """Return the map, or a window of it, bilinearly interpolated to native resolution.

        Args:
            top: first row of the window, in native pixels.
            left: first column of the window, in native pixels.
            height: rows of the window; up to the bottom edge if omitted.
            width: columns of the window; up to the right edge if omitted.

        Returns:
            float32 (height, width). Use windows for very large micrographs.

        Raises:
            MicrographError: the window does not lie within the micrograph, or is not given in integers.
        """
        given = [top, left, *(side for side in (height, width) if side is not None)]
        if not all(isinstance(number, Integral) for number in given):
            raise MicrographError(f"a window cannot be given as {given!r:.80}; give integers")
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
        for start in range(0, height, 512):  # bands bound the memory besides the result
            out[start : start + 512] = interpolate(self.values, rows[start : start + 512], columns)
        return out

    def resized(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the whole map bilinearly interpolated to another size: float32 (height, width).

        Raises:
            MicrographError: a side is not an integer of at least 1.
        """
        if not _is_length(height) or not _is_length(width):
            raise MicrographError(f"a map cannot be resized to {height!r} x {width!r}; give integers from 1")
        rows = (np.arange(height) + 0.5) * (self.height * self.scale / height) - 0.5
        columns = (np.arange(width) + 0.5) * (self.width * self.scale / width) - 0.5
        return interpolate(self.values, rows, columns)


@dataclass(frozen=True)
class Region:
    """A connected part of a micrograph that departs from the authentic references.

    Positions are measured from the outer top left corner of the micrograph, x to the right and y down, in native
    pixels. Fields in µm are None where the pixel size is unknown.

    Attributes:
        top: first row of the bounding box.
        left: first column of the box.
        height: rows of the box.
        width: columns of the box.
        centroid_row: row of the centroid, weighted by area.
        centroid_column: column of the centroid.
        area_px: area in square pixels, at least 1.
        peak_evidence: largest evidence in the region, in log-odds of not being authentic.
        mean_evidence: mean evidence over the area, in log-odds.
        area_um2: area in µm².
        centroid_x_um: column of the centroid in µm.
        centroid_y_um: row of the centroid in µm.
        length_um: greatest distance between two of its points in µm (maximum Feret diameter).
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
    length_um: float | None = None


@dataclass(frozen=True)
class NearestReference:
    """One of the references nearest to the micrograph.

    Attributes:
        name: name of the reference.
        label: its class.
        similarity: cosine similarity of the two mean standardised tokens, in [-1, 1].
    """

    name: str
    label: str
    similarity: float


@dataclass(frozen=True)
class RecognisedSurface:
    """A reference that shows the same surface as the micrograph.

    Attributes:
        name: name of the reference.
        label: its class.
        points: number of matching keypoints.
    """

    name: str
    label: str
    points: int


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """Verdict on one micrograph, with everything needed to explain and repeat it.

    Attributes:
        source: path of the micrograph's file as it was given; None for an array.
        file_sha256: hexadecimal sha256 of the file's bytes, or of the array's.
        model_name: name of the model.
        model_sha256: `sha256` of the model, which identifies the exact weights.
        references_sha256: sha256 of the enrolled references.
        score: probability of being authentic, in [0, 1], if both sides were equally likely beforehand; calibrated only
            where `calibrated` is True.
        decision: decision at the error rate `alpha`; `inconclusive` where the p-values allow neither answer.
        in_scope: False where the micrograph as a whole is unlike every reference, or its pixel size differs by more
            than a factor of 1.5 from the range of theirs. The decision is then `inconclusive`, and the score has no
            meaning.
        predicted_class: most likely class, without abstention: the authentic class at a score of 0.5 or more, else the
            nearest other class (`not …` where no other class is enrolled).
        p_values: conformal p-values of `authentic` and `not authentic`, in (0, 1]. One key where only authentic
            references are enrolled; empty where there are too few references to cross-fit.
        alpha: error rate of the decision, in (0, 1). At most this share of authentic micrographs is called not
            authentic, and at most this share of the others, of all classes together, authentic. Among decided verdicts
            the share of errors can be higher.
        evidence: map of the evidence against authenticity, in log-odds.
        threshold: threshold of evidence, in log-odds, above which regions are listed.
        regions: connected regions above the threshold, the strongest first.
        nearest: most similar references, the nearest first.
        contributions: contribution of each kind of evidence. With `offset` they sum to the log-odds of not being
            authentic, `log(1 / score - 1)`.
        reasons: reasons for the verdict in sentences, the most important first.
        height: height of the micrograph in native pixels, without the data bar.
        width: width of the micrograph in native pixels.
        pixel_size_um: side of a native pixel in µm; None where unknown.
        instrument: instrument named in the file; None where it names none.
        seconds: duration of the inspection in seconds, without reading the file.
        offset: intercept of the log-odds, the same for every micrograph; see `contributions`.
        compared_with: summary of the references.
        purified: whether the micrograph was purified by the diffusion prior before it was judged. Authentic ones then
            commonly score lower than otherwise.
        attacked: whether purification moves the log-odds more than those of untouched micrographs; None where not
            tested.
        recognised: reference that shows the same surface; None where none was recognised or surfaces are not used as
            evidence.
        calibrated: False where the score only ranks micrographs: there are fewer than two specimens of a side, so that
            even odds were not set by specimens that were left out. How well the two sides are told apart is another
            question, which `figures` of `compared_with` answers.
        notes: what was changed or unknown when the file was read, in sentences.
        page: index of the page in the file, from 0; None where the first was read without being asked for.
        pixel_size_source: what gives the pixel size, see `Micrograph`; None where it is unknown.
    """

    source: str | None
    file_sha256: str | None
    model_name: str
    model_sha256: str
    references_sha256: str
    score: float
    decision: Decision
    in_scope: bool
    predicted_class: str
    p_values: dict[str, float]
    alpha: float
    evidence: EvidenceMap
    threshold: float
    regions: tuple[Region, ...]
    nearest: tuple[NearestReference, ...]
    contributions: dict[str, float]
    reasons: tuple[str, ...]
    height: int
    width: int
    pixel_size_um: float | None
    instrument: str | None
    seconds: float
    offset: float
    compared_with: Compared
    purified: bool = False
    attacked: bool | None = None
    recognised: RecognisedSurface | None = None
    calibrated: bool = True
    notes: tuple[str, ...] = ()
    page: int | None = None
    pixel_size_source: str | None = None

    def __repr__(self) -> str:
        """Return a one-line summary."""
        page = "" if self.page is None else f" page {self.page}"
        score = f"score {self.score:.3f}" if self.calibrated else f"score {self.score:.3f} (not calibrated)"
        decision = self.decision if self.in_scope else "out of scope"
        return f"Inspection({self.source!r}{page}: {decision}, {score}, {counted(len(self.regions), 'region')})"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; of the evidence map only its maximum, mean and shape."""
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
        if doubts := plain["compared_with"].pop("doubts"):
            plain["compared_with"]["doubts"] = list(doubts)
        if self.recognised is not None:
            plain["recognised"] = asdict(self.recognised)
        for name, unasked in (("purified", False), ("attacked", None), ("page", None), ("pixel_size_source", None)):
            if plain[name] is unasked:
                del plain[name]
        return plain
