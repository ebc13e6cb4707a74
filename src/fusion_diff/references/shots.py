"""Shots: which references are taken where not all of them are."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusion_diff.errors import ReferenceSetError


def first_of_each(labels: Sequence[str], groups: Sequence[str], k: int) -> list[int]:
    """Return the indices of `k` references of each label, in order, or all of a label with fewer.

    The groups of a label are taken in turn: the first reference of each, then the second of each, and so on.

    Raises:
        ReferenceSetError: `k` is not an integer of at least 1, or exceeds the count of every label.
    """
    wanted, counts = whole_number(k), Counter(labels)
    if wanted is None or wanted < 1:
        raise ReferenceSetError(f"shots must be a whole number of at least 1, not {k!r}")
    if wanted > max(counts.values()):
        enrolled = ", ".join(f"{label} {count}" for label, count in counts.items())
        raise ReferenceSetError(
            f"shots is {wanted}, but no class has that many references ({enrolled}): "
            "use fewer shots, or omit shots to use all references"
        )
    seen: Counter[tuple[str, str]] = Counter()
    of_label: dict[str, list[tuple[int, int]]] = {label: [] for label in counts}
    for place, (label, group) in enumerate(zip(labels, groups, strict=True)):
        of_label[label].append((seen[label, group], place))
        seen[label, group] += 1
    return sorted(place for turns in of_label.values() for _, place in sorted(turns)[:wanted])


def whole_number(value: Any) -> int | None:
    """Return `value` as an int, or None if it is not an integer. Booleans are masks or mistakes and give None."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
