"""The range of a model's cross-fitted authentic references, shown in the charts as a band."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_diff.errors import FusionDiffError
from fusion_diff.service.pages.trend import log_odds

if TYPE_CHECKING:
    from fusion_diff.service.shelf import Shelf
    from fusion_diff.service.tables import Model

_REMEMBERED = 64
_known: OrderedDict[str, Level | None] = OrderedDict()  # keyed by the model's digest, so valid in any process


@dataclass(frozen=True)
class Level:
    """Cross-fitted scores of a model's authentic references, in log-odds of being authentic.

    Attributes:
        low: 10 % quantile.
        middle: median.
        high: 90 % quantile.
        count: number of references.
    """

    low: float
    middle: float
    high: float
    count: int


def reference_level(shelf: Shelf, model: Model) -> Level | None:
    """Return the level of a model's references; None if it cannot be loaded or has too few to cross-fit."""
    if model.sha256 not in _known:
        try:
            _known[model.sha256] = _measured(shelf, model.id)
        except (FusionDiffError, OSError):  # not remembered, because it may be readable the next time
            return None
        if len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return _known[model.sha256]


def _measured(shelf: Shelf, model_id: str) -> Level | None:
    import numpy as np

    from fusion_diff.fewshot.decision import probability

    enrolment = shelf.find(model_id).enrolment
    if enrolment is None or not len(enrolment.verifier.inside):
        return None
    verifier = enrolment.verifier
    scores = [log_odds(probability(verifier.calibration.log_odds(float(fused)))) for fused in verifier.inside]
    low, middle, high = np.quantile(scores, (0.1, 0.5, 0.9)).tolist()
    return Level(low, middle, high, len(scores))
