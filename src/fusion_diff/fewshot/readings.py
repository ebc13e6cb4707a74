"""Readings: evidence maps of one or more kinds, summed per token and pooled into one score per micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.fewshot.bags import top_count
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", Tensor, NDArray[np.float32])

FLAW_SHARES = (0.003, 0.01, 0.03, 0.1)
"""Shares of highest values that dense readings average. A flaw may be one pore or a tenth of the micrograph."""


class UnregisteredError(LookupError):
    """A stored model has a head or a reading that no module imported here has registered.

    It is no `KeyError`: those are taken for damage where stored models are read.
    """

    def __init__(self, what: str, name: object) -> None:
        """Make the error of a `head` or `reading` of this name."""
        super().__init__(f"its {what} {printable(name, 80)} is not known here; import the module that registers it")


@dataclass(frozen=True)
class Rule:
    """How one reading is computed from evidence maps.

    Attributes:
        kinds: kinds of evidence whose maps are summed per token.
        shares: shares of highest values whose means are averaged (see `rank_weights`), for flaws that may be small. If
            empty, the score is the mean of all values.
    """

    kinds: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def dense(self) -> bool:
        """Whether the reading has a place in the micrograph: that of the highest values."""
        return bool(self.shares)


DEPARTURES, MULTIPLE_INSTANCE, OUTLIERS = "departures", "multiple-instance", "outliers"
POOLED, RECONSTRUCTION = "pooled", "reconstruction"
READINGS = {
    DEPARTURES: Rule(("multiple-instance", "novelty", "suspicion"), FLAW_SHARES),
    MULTIPLE_INSTANCE: Rule(("multiple-instance",), FLAW_SHARES),
    OUTLIERS: Rule(("outliers",), FLAW_SHARES[:1]),
    POOLED: Rule(("pooled",), ()),
    RECONSTRUCTION: Rule(("reconstruction",), FLAW_SHARES),
}
"""The readings and how each is computed. Programs add theirs in place.

- Departures: all evidence of local flaws, summed per token before the highest values are averaged.
- Multiple-instance: what the references' own flaws have taught, by itself. It finds more flaws of their kinds.
- Outliers: the few tokens that are farthest from any authentic one. They find flaws of kinds that no reference shows.
- Pooled: the mean of every channel over the whole micrograph.
- Reconstruction: the residual of the diffusion path.
"""


def kinds_of(readings: set[str]) -> set[str]:
    """Return the kinds of evidence that these readings use."""
    return {kind for name in readings for kind in READINGS[name].kinds}


def dense_readings(maps: dict[str, Array]) -> dict[str, Array]:
    """Sum the maps (n,) of kinds into one map per dense reading. Other readings have no location."""
    added = {}
    for name, rule in READINGS.items():
        members = [maps[kind] for kind in rule.kinds if kind in maps]
        if members and rule.dense:
            added[name] = sum(members[1:], start=members[0])
    return added


def rank_weights(count: int, shares: tuple[float, ...]) -> NDArray[np.float64]:
    """Return weights (k,) of the highest of `count` values, from the highest down; they sum to 1.

    The weighted sum is the mean over the shares of the mean of the highest values in each. So with several shares no
    size of flaw is assumed.
    """
    counts = [top_count(count, share) for share in shares]
    weights = np.zeros(max(counts))
    for each in counts:
        weights[:each] += 1 / (each * len(counts))
    return weights


def greatest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the indices of the `count` greatest values (n,), or of all if there are fewer, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]


def _ranked(values: Array, shares: tuple[float, ...]) -> tuple[Any, Any]:
    """Return the indices of the highest values, from the highest down, and their weights."""
    weights = rank_weights(len(values), shares)
    if not isinstance(values, np.ndarray):
        return values.topk(len(weights)).indices, values.new_tensor(weights)
    highest = greatest(values, len(weights))
    return highest[np.argsort(-values[highest])], weights


def pool(maps: dict[str, Array]) -> dict[str, dict[str, Any]]:
    """Pool the maps (n,) of a whole micrograph into the contribution (a number) of each kind to each reading.

    Kinds of one reading are pooled over the same tokens, so that contributions sum to the reading's score. Readings
    without a map are omitted, among them pooled evidence with authentic references alone. Tensors give tensors with
    gradients; arrays are summed in float64.
    """
    dense, parts = dense_readings(maps), {}
    for name, rule in READINGS.items():
        members = {kind: maps[kind] for kind in rule.kinds if kind in maps}
        if name in dense:
            highest, weights = _ranked(dense[name], rule.shares)
            parts[name] = {kind: values[highest] @ weights for kind, values in members.items()}
        elif members:
            parts[name] = {kind: _mean(values) for kind, values in members.items()}
    return parts


def _mean(values: Array) -> Any:
    return values.mean(dtype=np.float64) if isinstance(values, np.ndarray) else values.mean()


def kind_scores(maps: dict[str, Array]) -> dict[str, dict[str, float]]:
    """Return the contribution of each kind to each reading as floats; see `pool`."""
    return {name: {kind: float(part) for kind, part in parts.items()} for name, parts in pool(maps).items()}


def reading_scores(maps: dict[str, Array]) -> dict[str, float]:
    """Pool the maps (n,) of a whole micrograph into the score of each reading."""
    return {name: sum(parts.values()) for name, parts in kind_scores(maps).items()}
