"""Correspondence evidence: the very surface of a reference, recognised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.crossfit import HANDFUL
from fusion_diff.fewshot.keypoints import Keypoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CORRESPONDENCE = "correspondence"
ENOUGH = 8
"""Keypoints that must correspond before two pictures show one surface: different ones share 5 at most."""
AGREEMENT = 2
"""How many times as much has to speak for one side as for the other: a wrong label among many is outvoted."""
PAIRS = 10
"""Of many references each is compared with so many before all are with all, which grows with the square."""
LOG_ODDS = 6.0
"""What that is worth: a surface recognised outweighs any likeness of texture, but not a wrong label among many."""


@dataclass(frozen=True)
class Match:
    """The reference whose surface was recognised.

    Attributes:
        reference: its index.
        points: keypoints that correspond.
        log_odds: what that adds to the log-odds of not being authentic.
    """

    reference: int
    points: int
    log_odds: float


@dataclass(frozen=True, eq=False)
class Correspondence:
    """The surfaces of the references.

    Attributes:
        surfaces: keypoints of each reference.
        authentic: (n,) bool, which of them are authentic.
    """

    surfaces: tuple[Keypoints, ...]
    authentic: NDArray[np.bool_]

    @classmethod
    def fit(
        cls, surfaces: Sequence[Keypoints], authentic: NDArray[np.bool_], groups: Sequence[str]
    ) -> tuple[Correspondence | None, NDArray[np.float64]]:
        """Learn whether surfaces may tell the classes apart.

        Objects that are to be recognised are photographed from sides that overlap, the more the more references there
        are. Where flaws are sought instead, a sound reference and a flawed one show one place as often as two of one
        class do, or no two references of many do: keypoints then say nothing, and are not looked for at inspection.

        Args:
            surfaces: keypoints of n references.
            authentic: (n,) bool.
            groups: specimen, or view, of each reference.

        Returns:
            The evidence, or None where surfaces do not tell; and (n,) the log-odds it gives each reference from those
            of other groups.
        """
        count = len(surfaces)
        one_class = authentic[:, None] == authentic
        if count > HANDFUL and not _any_alike(surfaces, one_class):
            return None, np.zeros(count)
        points = np.zeros((count, count), dtype=np.intp)
        for i in range(count):
            for j in range(i):
                points[i, j] = points[j, i] = surfaces[i].corresponding(surfaces[j])
        found = points >= ENOUGH
        alike, unlike = int((found & one_class).sum()), int((found & ~one_class).sum())
        if alike < AGREEMENT * unlike:
            return None, np.zeros(count)
        apart = np.asarray(groups)[:, None] != np.asarray(groups)
        evidence = cls(tuple(surfaces), authentic)
        matches = [evidence._judge(row) for row in np.where(apart, points, 0)]
        return evidence, np.asarray([0.0 if match is None else match.log_odds for match in matches])

    def match(self, surface: Keypoints, among: NDArray[np.bool_] | None = None) -> Match | None:
        """Return the reference whose surface this is; None where there is none, or both sides have some as good.

        Args:
            surface: keypoints of a micrograph.
            among: (n,) bool, the references to compare with; all when omitted.
        """
        compared = np.ones(len(self.surfaces), dtype=bool) if among is None else among
        shared = [
            surface.corresponding(reference) if asked else 0
            for reference, asked in zip(self.surfaces, compared, strict=True)
        ]
        return self._judge(np.asarray(shared, dtype=np.intp))

    def _judge(self, points: NDArray[np.intp]) -> Match | None:
        found = np.where(points >= ENOUGH, points, 0)
        inside, outside = int(found[self.authentic].sum()), int(found[~self.authentic].sum())
        if max(inside, outside) < max(1, AGREEMENT * min(inside, outside)):
            return None
        reference = int(np.where(self.authentic == (inside > outside), found, -1).argmax())
        return Match(reference, int(found[reference]), -LOG_ODDS if inside > outside else LOG_ODDS)


def _any_alike(surfaces: Sequence[Keypoints], one_class: NDArray[np.bool_]) -> bool:
    """Tell whether two of many references of one class show one place, going by `PAIRS` pairs of each."""
    order = np.random.default_rng(0).permutation(len(surfaces))
    pairs = (
        (one, other) for step in range(1, PAIRS + 1) for one, other in zip(order, np.roll(order, step), strict=True)
    )
    return any(one_class[one, other] and surfaces[one].corresponding(surfaces[other]) >= ENOUGH for one, other in pairs)
