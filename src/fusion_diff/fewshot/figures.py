"""Figures of how well scores tell authentic micrographs from others, with NumPy alone.

scikit-learn has them too, but every verdict gives them, and importing it would cost each command seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def auroc(authentic: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: how often an other scores higher than an authentic one, ties counting half.

    Args:
        authentic: (n,) scores of the authentic, n at least 1; higher is less authentic.
        others: (m,) scores of the others, m at least 1.
    """
    gaps = others[:, None] - authentic
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def macro_f1(truth: ArrayLike, said: ArrayLike) -> float:
    """Return the mean F1 of the sides that the truth has, authentic and not authentic.

    Args:
        truth: (n,) whether each is authentic, n at least 1.
        said: (n,) whether each was called so.
    """
    truth, said = np.asarray(truth, dtype=bool), np.asarray(said, dtype=bool)
    wrong = int((truth != said).sum())
    sides = [int(((truth == side) & (said == side)).sum()) for side in np.unique(truth)]
    return float(np.mean([2 * right / (2 * right + wrong) for right in sides]))
