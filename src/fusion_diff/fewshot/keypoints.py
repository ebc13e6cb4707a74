"""Keypoints: points of a surface that can be found again in another image of the same place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_KEYPOINTS = 500
WIDTH = 128
"""Length of a keypoint's descriptor (Lowe 2004)."""

_CONTRAST = 0.01
"""Contrast threshold of SIFT: a quarter of its default, because glazes are faint."""
_RATIO = 0.85
"""Ratio test: largest ratio of the distances to the best and the second-best match."""
_REACH = 4.0
"""Largest reprojection error of a corresponding keypoint, in pixels."""
_NARROW = 0.1
"""Largest standard deviation across a line of writing, as a share of the extent of the keypoints."""
_ZOOM = 3.0
"""Largest scale between two images; without a bound, many points collapse into one."""


class Shared(NamedTuple):
    """What two images show of one surface.

    Attributes:
        points: number of corresponding keypoints.
        extent: area of the second image within its outermost keypoints, as a multiple of that of the first; 0 if none
            corresponds.
    """

    points: int
    extent: float

    @property
    def reversed(self) -> Shared:
        """The same with first and second image exchanged."""
        return Shared(self.points, 1 / self.extent if self.extent else 0.0)


NOTHING = Shared(0, 0.0)


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of one image.

    Attributes:
        points: (n, 2) float32, column and row in pixels of the image; n is `MAX_KEYPOINTS` at most.
        descriptors: (n, 128) uint8 (SIFT, Lowe 2004).
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]

    @classmethod
    def find(cls, picture: NDArray[np.uint8]) -> Keypoints:
        """Find the keypoints of highest contrast in an image, uint8 (h, w) or (h, w, 3) RGB."""
        import cv2

        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        found, described = cv2.SIFT.create(MAX_KEYPOINTS, contrastThreshold=_CONTRAST).detectAndCompute(grey, None)
        if described is None:
            return cls(np.zeros((0, 2), np.float32), np.zeros((0, WIDTH), np.uint8))
        points = np.asarray([each.pt for each in found], np.float32)
        return cls(points[:MAX_KEYPOINTS], described[:MAX_KEYPOINTS].astype(np.uint8))

    @cached_property
    def _rooted(self) -> NDArray[np.float32]:
        """Unit-length descriptors (n, 128) float32; their dot product is the Hellinger kernel of the stored ones."""
        values = self.descriptors.astype(np.float32)
        rooted: NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1))
        return rooted

    @cached_property
    def area(self) -> float:
        """The area within the outermost keypoints, in square pixels."""
        import cv2

        return float(cv2.contourArea(cv2.convexHull(self.points)))

    def shared(self, other: Keypoints) -> Shared:
        """Match the keypoints of another image under one translation, rotation and scale.

        Matches are mutual nearest neighbours by RootSIFT (Arandjelović & Zisserman 2012) that pass the ratio test
        (Lowe 2004). Counted are the inliers of one similarity transform (RANSAC, Fischler & Bolles 1981). Images of
        different surfaces share 5 at most on the sets tried; images of one surface share tens to hundreds.
        """
        import cv2

        if min(len(self.points), len(other.points)) < 3:
            return NOTHING
        likeness = self._rooted @ other._rooted.T
        own, best = np.arange(len(likeness)), likeness.argmax(1)
        mutual = likeness.argmax(0)[best] == own
        nearest = likeness[own, best].copy()
        likeness[own, best] = -1
        kept = mutual & (1 - nearest < _RATIO**2 * (1 - likeness.max(1)))  # squared distances, halved
        if kept.sum() < 3:
            return NOTHING
        here, there = self.points[kept], other.points[best[kept]]
        transform, inliers = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=_REACH, maxIters=500)
        if transform is None or not 1 / _ZOOM < np.hypot(transform[0, 0], transform[1, 0]) < _ZOOM:
            return NOTHING
        agreed = inliers[:, 0] > 0
        if _drawn_on(here[agreed], there[agreed], self.points):
            return NOTHING
        zoomed = self.area * abs(float(np.linalg.det(transform[:, :2])))  # in pixels of the other
        if zoomed == 0:
            return NOTHING
        return Shared(int(agreed.sum()), other.area / zoomed)


def _drawn_on(here: NDArray[np.float32], there: NDArray[np.float32], points: NDArray[np.float32]) -> bool:
    """Return whether the matches are writing drawn on both images: unmoved between them, and narrow as a line.

    Two exactly aligned images of one surface are unmoved, too, but match everywhere.
    """
    moved = float(np.median(np.linalg.norm(there - here, axis=1)))
    narrow = float(np.sqrt(max(0.0, np.linalg.eigvalsh(np.cov(here.T))[0])))
    return moved < _REACH and narrow < _NARROW * float(np.ptp(points, axis=0).max())
