"""AUROC and macro F1, computed with NumPy only.

Every verdict reports them, and importing scikit-learn for them would add seconds to each command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def auroc(authentic: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: the share of pairs in which the other scores higher; ties count half.

    Args:
        authentic: (n,) scores of authentic micrographs, n at least 1; higher is less authentic.
        others: (m,) scores of the others, m at least 1.
    """
    gaps = others[:, None] - authentic
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def macro_f1(truth: ArrayLike, said: ArrayLike) -> float:
    """Return the mean F1 of the two sides, authentic and not authentic; a side that is not in `truth` is left out.

    Args:
        truth: (n,) whether each micrograph is authentic, n at least 1.
        said: (n,) whether each was predicted to be authentic.
    """
    truth, said = np.asarray(truth, dtype=bool), np.asarray(said, dtype=bool)
    wrong = int((truth != said).sum())
    sides = [int(((truth == side) & (said == side)).sum()) for side in np.unique(truth)]
    return float(np.mean([2 * right / (2 * right + wrong) for right in sides]))
