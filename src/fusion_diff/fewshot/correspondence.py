"""Correspondence evidence: recognises the physical surface of a reference by its keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.crossfit import HANDFUL
from fusion_diff.fewshot.keypoints import Keypoints, Shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CORRESPONDENCE = "correspondence"
ENOUGH = 8
"""Corresponding keypoints that prove that two images show the same surface; different surfaces share 5 at most."""
EXTENT = 0.2
"""Smallest area of a reference, as a share of the micrograph's, for it to be recognised: a small part of a surface must
not vouch for all of it. Of two views of one object, taken by hand, the smaller has 0.43 of the larger at least."""
AGREEMENT = 2
"""Required ratio of evidence between the two sides, so that a single wrong label among many is outvoted."""
PAIRS = 10
"""Pairs tried per reference in the quick check of a large set; comparing all pairs takes quadratic time."""
LOG_ODDS = 6.0
"""Log-odds added for a recognised surface. This outweighs any similarity of texture."""


@dataclass(frozen=True)
class Match:
    """A reference whose surface was recognised.

    Attributes:
        reference: its index.
        points: number of corresponding keypoints.
        log_odds: added to the log-odds of not being authentic.
    """

    reference: int
    points: int
    log_odds: float


@dataclass(frozen=True, eq=False)
class Correspondence:
    """The surfaces of the references.

    Attributes:
        surfaces: keypoints of each reference.
        authentic: (n,) bool, True for authentic references.
    """

    surfaces: tuple[Keypoints, ...]
    authentic: NDArray[np.bool_]

    @classmethod
    def fit(
        cls, surfaces: Sequence[Keypoints], authentic: NDArray[np.bool_], groups: Sequence[str]
    ) -> tuple[Correspondence | None, NDArray[np.float64]]:
        """Decide whether recognised surfaces separate the two sides, and score the references if they do.

        If single objects are verified, views of one object overlap, and more so with more references. If flaws are
        sought, two cases occur: references of different sides show the same place as often as references of one side,
        or no two of many references do. Keypoints are then uninformative and are not computed at inspection.

        Args:
            surfaces: keypoints of n references.
            authentic: (n,) bool.
            groups: specimen, or view, of each reference.

        Returns:
            The evidence, or None if surfaces do not separate the sides; and the log-odds (n,) that each reference gets
            from references of other groups.
        """
        count = len(surfaces)
        same_side = authentic[:, None] == authentic
        if count > HANDFUL and not _any_alike(surfaces, same_side):
            return None, np.zeros(count)
        points = np.zeros((count, count), dtype=np.intp)
        for i in range(count):
            for j in range(i):
                shared = surfaces[i].shared(surfaces[j])
                points[i, j], points[j, i] = _points(shared), _points(shared.reversed)
        found = points >= ENOUGH
        alike, unlike = int((found & same_side).sum()), int((found & ~same_side).sum())
        if alike < AGREEMENT * unlike:
            return None, np.zeros(count)
        apart = np.asarray(groups)[:, None] != np.asarray(groups)
        evidence = cls(tuple(surfaces), authentic)
        matches = [evidence._judge(row) for row in np.where(apart, points, 0)]
        return evidence, np.asarray([0.0 if match is None else match.log_odds for match in matches])

    def match(self, surface: Keypoints, among: NDArray[np.bool_] | None = None) -> Match | None:
        """Return the reference that shows this surface; None if there is none or the two sides are too close.

        Args:
            surface: keypoints of a micrograph.
            among: (n,) bool, the references to compare with; all if omitted.
        """
        compared = np.ones(len(self.surfaces), dtype=bool) if among is None else among
        points = [
            _points(surface.shared(reference)) if asked else 0
            for reference, asked in zip(self.surfaces, compared, strict=True)
        ]
        return self._judge(np.asarray(points, dtype=np.intp))

    def _judge(self, points: NDArray[np.intp]) -> Match | None:
        found = np.where(points >= ENOUGH, points, 0)
        inside, outside = int(found[self.authentic].sum()), int(found[~self.authentic].sum())
        if max(inside, outside) < max(1, AGREEMENT * min(inside, outside)):
            return None
        reference = int(np.where(self.authentic == (inside > outside), found, -1).argmax())
        return Match(reference, int(found[reference]), -LOG_ODDS if inside > outside else LOG_ODDS)


def _points(shared: Shared) -> int:
    """Return the corresponding keypoints, 0 if the second image is a small part beside the first."""
    return shared.points if shared.extent >= EXTENT else 0


def _any_alike(surfaces: Sequence[Keypoints], same_side: NDArray[np.bool_]) -> bool:
    """Return whether any two references of one side show the same place, trying `PAIRS` pairs per reference."""
    order = np.random.default_rng(0).permutation(len(surfaces))
    pairs = (
        (one, other) for step in range(1, PAIRS + 1) for one, other in zip(order, np.roll(order, step), strict=True)
    )
    return any(same_side[one, other] and surfaces[one].shared(surfaces[other]).points >= ENOUGH for one, other in pairs)
