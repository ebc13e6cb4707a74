"""Cross-fitting: every reference is scored by heads that never saw it, nor its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.heads import Heads

MAX_FOLDS = 5
HANDFUL = 20
"""So many references are few: each one left out is missed, so up to twice the folds are made; and few need show one
place."""


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


def _leaves_both_sides(authentic: NDArray[np.bool_], part: NDArray[np.intp]) -> bool:
    rest = np.delete(authentic, part)
    return bool(rest.any()) and not (bool(rest.all()) and not authentic.all())
