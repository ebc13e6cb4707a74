"""Cross-fitting: every reference is scored by heads that were learned without it and without its group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.bags import HALVES, content_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.heads import Heads

MAX_FOLDS = 5
HANDFUL = 20
"""Up to this many references, twice as many folds are allowed, because heads suffer from each reference left out.
Correspondence is then also learned if no two references show the same place."""


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The references in the order they are learned from, and the parts that cross-fitting leaves out.

    They are sorted by content and their specimens renumbered. So neither the order in which references are given nor
    the names of specimens change the result.

    Attributes:
        order: index of each among the references as given.
        bags: tokens of each, with its class. The specimen is included only if at least two authentic specimens remain
            whichever part is left out: held-out and final heads then standardise distances in the same way. For the
            same reason it is `HALVES` if a single authentic reference remains of two.
        groups: specimen of each.
        authentic: (n,) bool.
        parts: index arrays, see `folds`; None if nothing can be left out.
        single: whether single references of a side are left out, which has no second specimen.
    """

    order: list[int]
    bags: list[Bag]
    groups: list[str]
    authentic: NDArray[np.bool_]
    parts: list[NDArray[np.intp]] | None
    single: bool

    @classmethod
    def of(cls, bags: Sequence[Bag], labels: Sequence[str], groups: Sequence[str], authentic_label: str) -> Arrangement:
        """Arrange references, given the tokens, class and specimen of each."""
        given = [replace(bag, label=label) for bag, label in zip(bags, labels, strict=True)]
        order = content_order(given)
        numbers: dict[str, str] = {}
        numbered = [numbers.setdefault(groups[index], str(len(numbers))) for index in order]
        authentic = np.asarray([given[index].label == authentic_label for index in order])
        parts = folds(numbered, authentic)
        single = parts is None and (parts := folds(_divided(numbered, authentic), authentic)) is not None
        apart = parts is not None and all(_specimens(numbered, authentic, part) > 1 for part in parts)
        told = HALVES if parts is not None and authentic.sum() == 2 else ""
        own = [
            replace(given[index], group=group if apart else told) for index, group in zip(order, numbered, strict=True)
        ]
        return cls(order, own, numbered, authentic, parts, single)


def folds(groups: Sequence[str], authentic: NDArray[np.bool_]) -> list[NDArray[np.intp]] | None:
    """Split references into held-out parts that keep groups whole and spread the two sides evenly.

    If no specimen is on both sides, a part holds one specimen of each side as far as possible. The rest then keeps the
    balance of the full set. Heads that lack only an authentic specimen would score it too high.

    Args:
        groups: group of each reference.
        authentic: (n,) bool.

    Returns:
        Index arrays that partition the references; None if no valid split exists. The rest outside each array holds an
        authentic reference and, if the set has any, one of another class. There are at most `MAX_FOLDS` arrays, twice
        that for up to `HANDFUL` references, and one per group if no smaller number is valid.
    """
    inside, outside = (set(np.asarray(groups)[side].tolist()) for side in (authentic, ~authentic))
    specimens = len(inside | outside) if inside & outside else max(len(inside), len(outside))
    return _split(groups, authentic, specimens)


def single_folds(authentic: NDArray[np.bool_]) -> list[NDArray[np.intp]] | None:
    """Split references as if each were its own specimen."""
    return _split([str(index) for index in range(len(authentic))], authentic, len(authentic))


def left_out(
    parts: Sequence[NDArray[np.intp]], bags: Sequence[Bag], authentic: NDArray[np.bool_], learn: Callable[..., Heads]
) -> Iterator[tuple[NDArray[np.intp], Heads]]:
    """Yield each part with heads learned from the bags outside it only.

    Args:
        parts: index arrays from `folds`.
        bags: tokens of each reference.
        authentic: (n,) bool.
        learn: learns heads from bags and their (n,) authentic flags.
    """
    for part in parts:
        rest = np.setdiff1d(np.arange(len(bags)), part)
        yield part, learn([bags[index] for index in rest], authentic[rest])


def _split(groups: Sequence[str], authentic: NDArray[np.bool_], most: int) -> list[NDArray[np.intp]] | None:
    names = sorted(set(groups))
    members = {name: np.flatnonzero(np.asarray(groups) == name) for name in names}
    # Largest groups first, then those without authentic members, each to the part that holds least of its side.
    order = sorted(names, key=lambda name: (-len(members[name]), bool(authentic[members[name]].any()), name))
    count = min(most, 2 * MAX_FOLDS if len(groups) <= HANDFUL else MAX_FOLDS)
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = np.zeros((count, 2))
    for name in order:
        sides = np.bincount(authentic[members[name]].astype(int), minlength=2)
        load = totals @ sides
        target = int(np.lexsort((totals.sum(1), load))[0])
        parts[target].extend(members[name].tolist())
        totals[target] += sides
    even = [np.sort(np.asarray(part, dtype=np.intp)) for part in parts if part]
    for split in (even, [members[name] for name in names]):
        if len(split) > 1 and all(_leaves_both_sides(authentic, part) for part in split):
            return split
    return None


def _divided(groups: Sequence[str], authentic: NDArray[np.bool_]) -> list[str]:
    """Return the groups, with each reference of a side that has a single specimen in a group of its own.

    The other side keeps its specimens whole. Heads that have seen a specimen score it too low, so p-values of new
    authentic specimens would be too small, and nothing of the single specimen's side would balance them.
    """
    names = np.asarray(groups, dtype=object)
    for side in (authentic, ~authentic):
        if len(set(names[side].tolist())) == 1:
            names[side] = [f"{name}/{index}" for index, name in enumerate(names[side])]
    return list(names)


def _specimens(groups: Sequence[str], authentic: NDArray[np.bool_], part: NDArray[np.intp]) -> int:
    """Return the number of authentic specimens outside a part."""
    return len({groups[index] for index in np.setdiff1d(np.flatnonzero(authentic), part)})


def _leaves_both_sides(authentic: NDArray[np.bool_], part: NDArray[np.intp]) -> bool:
    rest = np.delete(authentic, part)
    return bool(rest.any()) and not (bool(rest.all()) and not authentic.all())
