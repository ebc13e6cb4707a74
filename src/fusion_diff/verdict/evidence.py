"""The evidence on one micrograph that a verdict is made of, whether torch or an exported graph has found it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.micrograph.tiles import Grid


@dataclass(frozen=True, eq=False)
class MicrographEvidence:
    """The evidence on one micrograph.

    Attributes:
        grid: token grid of the micrograph.
        evidence: float32 (rows, columns) log-odds of each token.
        fused: fused score.
        log_odds: calibrated log-odds of not being authentic.
        contributions: contribution of each reading or kind to the log-odds.
        strangeness: mean distance of its tokens to the nearest token of any reference, see `fewshot.scope`.
    """

    grid: Grid
    evidence: NDArray[np.float32]
    fused: float
    log_odds: float
    contributions: dict[str, float]
    strangeness: float
