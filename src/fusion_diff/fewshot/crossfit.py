"""Cross-fitting: every reference is scored by heads that never saw it, nor its group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.bags import content_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.heads import Heads

MAX_FOLDS = 5
HANDFUL = 20
"""So many references are few: each one left out is missed, so up to twice the folds are made; and few need show one
place."""


@dataclass(frozen=True, eq=False)
class Arrangement:
    """References as they are learned from: in an order of their own, and what is left out at once.

    Neither how they came nor what their specimens are called changes anything.

    Attributes:
        order: place of each among the references as they were given.
        bags: tokens of each, with its class. With its specimen only where heads of all references and of every part's
            rest can tell one authentic specimen from another: all are to speak in the same units.
        groups: specimen of each.
        authentic: (n,) bool.
        parts: index arrays, see `folds`; None where nothing can be left out.
        single: single references are left out, not whole specimens.
    """

    order: list[int]
    bags: list[Bag]
    groups: list[str]
    authentic: NDArray[np.bool_]
    parts: list[NDArray[np.intp]] | None
    single: bool

    @classmethod
    def of(cls, bags: Sequence[Bag], labels: Sequence[str], groups: Sequence[str], authentic_label: str) -> Arrangement:
        """Arrange references, given tokens, class and specimen of each."""
        given = [replace(bag, label=label) for bag, label in zip(bags, labels, strict=True)]
        order = content_order(given)
        numbers: dict[str, str] = {}
        numbered = [numbers.setdefault(groups[index], str(len(numbers))) for index in order]
        authentic = np.asarray([given[index].label == authentic_label for index in order])
        parts = folds(numbered, authentic)
        single = parts is None and (parts := single_folds(authentic)) is not None
        apart = parts is not None and all(_specimens(numbered, authentic, part) > 1 for part in parts)
        own = [
            replace(given[index], group=group if apart else "") for index, group in zip(order, numbered, strict=True)
        ]
        return cls(order, own, numbered, authentic, parts, single)


def folds(groups: Sequence[str], authentic: NDArray[np.bool_]) -> list[NDArray[np.intp]] | None:
    """Split references into held-out parts, whole groups together and classes spread evenly.

    Where no specimen is of both sides, one of each is left out at once as far as there are as many: what is left then
    weighs the sides as all references do. With an authentic one left out alone, heads would find it too strange.

    Args:
        groups: group of each reference.
        authentic: (n,) bool.

    Returns:
        Index arrays that partition the references, such that what remains outside of each still holds an authentic
        reference and, where the set has any, another one; None where no such split exists. `MAX_FOLDS` arrays at most,
        of a handful twice as many, except where only leaving out every group by itself will do.
    """
    inside, outside = (set(np.asarray(groups)[side].tolist()) for side in (authentic, ~authentic))
    specimens = len(inside | outside) if inside & outside else max(len(inside), len(outside))
    return _split(groups, authentic, specimens)


def single_folds(authentic: NDArray[np.bool_]) -> list[NDArray[np.intp]] | None:
    """Split references as if each were a specimen of its own, so that of a handful one at a time is left out."""
    return _split([str(index) for index in range(len(authentic))], authentic, len(authentic))


def left_out(
    parts: Sequence[NDArray[np.intp]], bags: Sequence[Bag], authentic: NDArray[np.bool_], learn: Callable[..., Heads]
) -> Iterator[tuple[NDArray[np.intp], Heads]]:
    """Yield each part with the heads that learned from the bags outside of it alone.

    Args:
        parts: index arrays, as `folds` gives them.
        bags: tokens of each reference.
        authentic: (n,) bool.
        learn: learns heads from bags and which of them are authentic.
    """
    for part in parts:
        rest = np.setdiff1d(np.arange(len(bags)), part)
        yield part, learn([bags[index] for index in rest], authentic[rest])


def _split(groups: Sequence[str], authentic: NDArray[np.bool_], most: int) -> list[NDArray[np.intp]] | None:
    names = sorted(set(groups))
    members = {name: np.flatnonzero(np.asarray(groups) == name) for name in names}
    # Largest groups first, then those with few authentic members, each to the part that holds least of its kind.
    order = sorted(names, key=lambda name: (-len(members[name]), bool(authentic[members[name]].any()), name))
    count = min(most, 2 * MAX_FOLDS if len(groups) <= HANDFUL else MAX_FOLDS)
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = np.zeros((count, 2))
    for name in order:
        kinds = np.bincount(authentic[members[name]].astype(int), minlength=2)
        load = totals @ kinds
        target = int(np.lexsort((totals.sum(1), load))[0])
        parts[target].extend(members[name].tolist())
        totals[target] += kinds
    even = [np.sort(np.asarray(part, dtype=np.intp)) for part in parts if part]
    for split in (even, [members[name] for name in names]):
        if len(split) > 1 and all(_leaves_both_sides(authentic, part) for part in split):
            return split
    return None


def _specimens(groups: Sequence[str], authentic: NDArray[np.bool_], part: NDArray[np.intp]) -> int:
    """Return of how many specimens the authentic references outside of a part are."""
    return len({groups[index] for index in np.setdiff1d(np.flatnonzero(authentic), part)})


def _leaves_both_sides(authentic: NDArray[np.bool_], part: NDArray[np.intp]) -> bool:
    rest = np.delete(authentic, part)
    return bool(rest.any()) and not (bool(rest.all()) and not authentic.all())
