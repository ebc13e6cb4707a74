"""Readings: kinds of evidence added up and pooled into one number for a whole micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.fewshot.bags import top_count

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", Tensor, NDArray[np.float32])

FLAW_SHARES = (0.003, 0.01, 0.03, 0.1)
"""A flaw may be a single pore or run through a tenth of a micrograph: the highest values count in all these shares."""


@dataclass(frozen=True)
class Rule:
    """How one reading of a micrograph is taken.

    Attributes:
        kinds: kinds of evidence whose maps are added up, token by token.
        dense: a flaw may be small: the highest values are the score, see `rank_weights`. Otherwise it is the mean of
            all.
    """

    kinds: tuple[str, ...]
    dense: bool


DEPARTURES, TEXTURE, POOLED, RECONSTRUCTION = "departures", "texture", "pooled", "reconstruction"
READINGS = {
    DEPARTURES: Rule(("multiple-instance", "novelty", "likeness", "suspicion"), dense=True),
    TEXTURE: Rule(("likeness",), dense=False),
    POOLED: Rule(("pooled",), dense=False),
    RECONSTRUCTION: Rule(("reconstruction",), dense=True),
}
"""All evidence that a part of the micrograph is not authentic, added up per token before the highest values are
averaged; how near the micrograph as a whole is to what is not authentic, token by token and by level and spread; and
what the prior could not give back."""


def kinds_of(readings: set[str]) -> set[str]:
    """Return the kinds of evidence that these readings are made of."""
    return {kind for name in readings for kind in READINGS[name].kinds}


def dense_readings(maps: dict[str, Array]) -> dict[str, Array]:
    """Add up maps (n,) of kinds into those of the dense readings: what is spread over the whole has no place."""
    added = {}
    for name, rule in READINGS.items():
        members = [maps[kind] for kind in rule.kinds if kind in maps]
        if members and rule.dense:
            added[name] = sum(members[1:], start=members[0])
    return added


def rank_weights(count: int) -> NDArray[np.float64]:
    """Return what each of the highest of `count` values weighs, (k,) from the first down; the weights add up to 1.

    The weighted sum is the mean, over `FLAW_SHARES`, of the means of the highest values of that share: no size of flaw
    is taken for granted.
    """
    counts = [top_count(count, share) for share in FLAW_SHARES]
    weights = np.zeros(max(counts))
    for each in counts:
        weights[:each] += 1 / (each * len(counts))
    return weights


def greatest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the indices of the `count` greatest values (n,), or of all, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]


def _ranked(values: Array) -> tuple[Any, Any]:
    """Return the indices of the highest values, from the first down, and what each of them weighs."""
    weights = rank_weights(len(values))
    if not isinstance(values, np.ndarray):
        return values.topk(len(weights)).indices, values.new_tensor(weights)
    highest = greatest(values, len(weights))
    return highest[np.argsort(-values[highest])], weights


def pool(maps: dict[str, Array]) -> dict[str, dict[str, Any]]:
    """Pool the maps (n,) of a whole micrograph into the part (a number) that each kind has in each reading.

    Kinds of one reading are pooled over the same tokens, so that the parts add up to the reading's score. Readings that
    none of the maps belongs to are left out, and so is the texture where there is nothing but authentic references.
    Parts of tensors are tensors, with gradients; those of arrays are added up in double precision.
    """
    dense, parts = dense_readings(maps), {}
    for name, rule in READINGS.items():
        members = {kind: maps[kind] for kind in rule.kinds if kind in maps}
        if name in dense:
            highest, weights = _ranked(dense[name])
            parts[name] = {kind: values[highest] @ weights for kind, values in members.items()}
        elif members:
            parts[name] = {kind: _mean(values) for kind, values in members.items()}
    return parts


def _mean(values: Array) -> Any:
    return values.mean(dtype=np.float64) if isinstance(values, np.ndarray) else values.mean()


def kind_scores(maps: dict[str, Array]) -> dict[str, dict[str, float]]:
    """Return the part that each kind has in each reading as plain numbers; see `pool`."""
    return {name: {kind: float(part) for kind, part in parts.items()} for name, parts in pool(maps).items()}


def reading_scores(maps: dict[str, Array]) -> dict[str, float]:
    """Pool the maps (n,) of a whole micrograph into the score of each reading."""
    return {name: sum(parts.values()) for name, parts in kind_scores(maps).items()}
