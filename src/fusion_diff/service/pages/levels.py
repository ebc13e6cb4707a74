"""The range of a model's cross-fitted authentic references, shown in the charts as a band."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_diff.checkpoint import EMBEDDED, MANIFEST, based_on, digest, locate, read_json
from fusion_diff.errors import CheckpointError, FusionDiffError
from fusion_diff.service.pages.trend import logit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fusion_diff.fewshot.decision import Calibration
    from fusion_diff.model import DiffusionModel
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
    """

    low: float
    middle: float
    high: float


def reference_level(shelf: Shelf, model: Model) -> Level | None:
    """Return the level of a model's references; None if it cannot be read or has too few to cross-fit.

    It is that of the model in memory, or read from the small files of a checkpoint on this machine. No model is loaded
    or downloaded.
    """
    with suppress(KeyError):  # another request may forget it at any time
        return _known[model.sha256]
    try:
        held = shelf.held(model.sha256)
        level = _read(shelf.place(model, fetch=False), model.sha256) if held is None else _of(held)
    except (FusionDiffError, OSError, KeyError, TypeError, ValueError):  # it may be readable the next time
        return None
    _known[model.sha256] = level
    if len(_known) > _REMEMBERED:
        with suppress(KeyError):
            _known.popitem(last=False)
    return level


def _of(model: DiffusionModel) -> Level | None:
    if model.enrolment is None:
        return None
    verifier = model.enrolment.verifier
    return _level(verifier.calibration, verifier.inside.tolist())


def _read(folder: Path, sha256: str) -> Level | None:
    """Read the level from a checkpoint.

    Raises:
        CheckpointError: another model lies in the folder, or a file is altered or cannot be read.
        OSError: a file is missing.
        KeyError, TypeError, ValueError: the enrolment is damaged.
    """
    from fusion_diff.fewshot.decision import Calibration

    manifest, enrolment = folder / MANIFEST, folder / "enrolment.json"
    own = digest(manifest)
    if sha256 not in (own, based_on(own, digest(locate(EMBEDDED) / MANIFEST))):
        raise CheckpointError(f"{folder}: another model has been put in its place")
    listed = read_json(manifest)["sha256"]
    if enrolment.name not in listed:
        return None
    if digest(enrolment) != listed[enrolment.name]:
        raise CheckpointError(f"{enrolment}: altered since the checkpoint was saved")
    verifier = read_json(enrolment)["verifier"]
    return _level(Calibration(**verifier["calibration"]), verifier["inside"])


def _level(calibration: Calibration, inside: Sequence[float]) -> Level | None:
    import numpy as np

    from fusion_diff.fewshot.decision import probability

    scores = [logit(probability(calibration.log_odds(float(fused)))) for fused in inside]
    if not scores:
        return None
    low, middle, high = np.quantile(scores, (0.1, 0.5, 0.9)).tolist()
    return Level(low, middle, high)
