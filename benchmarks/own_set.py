"""A set of one's own for fewshot.py: a folder of classes, read as `enroll` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol import Image, Task

from fusion_diff import ReferenceSet
from fusion_diff.errors import ReferenceSetError
from fusion_diff.references.reference import named_specimens
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.references import Reference


@dataclass(frozen=True, kw_only=True)
class Own(Image):
    reference: Reference

    @property
    def marked(self) -> bool:
        return self.reference.mark is not None

    def read(self) -> Micrograph:
        """Return the micrograph, without its data bar."""
        return self.reference.micrograph

    def read_mark(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """Return the mask of the flaw, (height, width), or None without a mark."""
        mark = self.reference.mark
        return mark if mark is not None and mark.any() else None


def own_set(folder: Path, authentic: str, groups: str | None) -> Task:
    """Return the task to tell a class from all others, named after the folder.

    Args:
        folder: a folder of images per class, optionally with `groups.csv` and `masks`; see `ReferenceSet.from_folder`.
        authentic: the class.
        groups: CSV file or pattern of the groups, as in `ReferenceSet.from_folder`.

    Raises:
        ReferenceSetError: the folder cannot be read, or has no other class.

    Warns:
        UserWarning: no groups are given, or something in the folder is odd.
    """
    references = ReferenceSet.from_folder(folder, authentic=authentic, groups=groups)
    if len(references.classes) == 1:
        raise ReferenceSetError(
            f"{folder}: {authentic} is the only class; put images that are not authentic into a folder beside it"
        )
    if not named_specimens((each.name for each in references), references.groups):
        warn(
            f"{folder}: no groups are given, so each image counts as a specimen of its own; if several show one "
            "specimen, give --groups, because all figures are too optimistic otherwise"
        )
    images = [
        Own(each.micrograph.source, each.label == references.authentic, each.group, reference=each)
        for each in references
    ]
    return Task(folder.resolve().name, tuple(images), None, sha256=references.sha256)
