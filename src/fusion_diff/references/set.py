"""The set of references that a model enrols. It is immutable, ordered, and identified by a digest of its content."""

from __future__ import annotations

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import Micrograph
from fusion_diff.references import sources
from fusion_diff.references.groups import Groups
from fusion_diff.references.reference import Reference, check_authentic, check_size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceSet:
    """Labelled references in a fixed order; one of their classes is the authentic one.

    Authentic references alone are enough (one-class). A single reference per class is enough too.

    Attributes:
        references: the references, in order.
        authentic: the label of the class being verified.

    Raises:
        ReferenceSetError: there are no references or more than 5,000, none is authentic, a name occurs twice, or an
            authentic reference has a flaw marked on it.
    """

    references: tuple[Reference, ...]
    authentic: str

    def __post_init__(self) -> None:
        """Check the set as a whole. Each reference has checked its own fields."""
        object.__setattr__(self, "references", tuple(self.references))
        strangers = [type(item).__name__ for item in self.references if not isinstance(item, Reference)]
        if strangers:
            raise ReferenceSetError(
                f"a reference set holds Reference objects, not {strangers[0]}: use from_micrographs"
            )
        if not self.references:
            raise ReferenceSetError("the reference set is empty; give it at least one authentic reference")
        check_size(len(self.references), "the set")
        check_authentic(self.authentic, (reference.label for reference in self.references), "the set")
        seen: set[str] = set()
        for reference in self.references:
            if reference.name in seen:
                raise ReferenceSetError(f"two references are named {reference.name!r}: give each its own name")
            seen.add(reference.name)
            if reference.label == self.authentic and reference.mark is not None and reference.mark.any():
                raise ReferenceSetError(
                    f"{reference.name} is authentic ({self.authentic!r}) but has a flaw marked on it: "
                    "remove the mark, or label the reference as the flaw it shows"
                )

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        authentic: str,
        groups: Groups | None = None,
        marks: str | Path | None = None,
        pixel_size_um: float | None = None,
        page: int | None = None,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReferenceSet:
        r"""Read references from a folder that holds one folder of images per class.

        Images are read directly from each class folder; hidden files and files that are not images are skipped. The
        authentic class comes first, then the others by name. Within a class the order is by file name.

        Args:
            path: the folder, for example with `sound/` and `crack/` in it.
            authentic: name of the class to verify.
            groups: the groups of files that show the same specimen. Files of one specimen must share a group;
                otherwise cross-fitting has a specimen on both sides of a split and every error estimate is too
                optimistic. A path ending in `.csv` (columns `file,group`, optionally `class`; `file` is relative to
                `path`, as `crack/a.png`); a regular expression with one group, searched in the file name
                (`r"^([^_]+)_"`); or a function from file name to group. When omitted, `groups.csv` in the folder is
                used if it exists; otherwise every file is its own group.
            marks: folder of flaw masks named `<class>/<stem>.png` (or .tif, .tiff, .bmp); `masks` inside `path` when
                omitted. Every pixel that is not black is flaw. In a TIFF tagged MinIsWhite, as tifffile tags boolean
                arrays, every pixel that is not stored as white is flaw. A mask has the size of its micrograph, with or
                without the data bar.
            pixel_size_um: pixel size of all images in micrometres; overrides the files' metadata.
            page: page of every image, from 0; None chooses it by file, see `load_microstructure_data`. Marks have one
                page.
            max_pixels: maximum size of an image in pixels; `MAX_PIXELS` if None.
            progress: called with (files read, total files) after each file.

        Raises:
            ReferenceSetError: the folder or its classes are missing or empty, files cannot be read (the error lists
                all of them), a mark does not fit its micrograph or marks an authentic one, a file has no group, or one
                image is in two classes.

        Warns:
            UserWarning: a mark is empty, covers more than half of its micrograph or belongs to no image, an image
                occurs twice in a class (kept once), or image files of unsupported kinds were skipped.
        """
        found = sources.from_folder(path, authentic, groups, marks, pixel_size_um, page, max_pixels, progress)
        return cls(tuple(found), authentic)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        authentic: str,
        page: int | None = None,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReferenceSet:
        """Read references listed in a UTF-8 CSV file, in the order of its lines.

        Args:
            path: CSV file with a header and the columns `file` and `label`, optionally `group` (as in `from_folder`;
                a row without one is its own group), `mark` (file of the flaw mask) and `pixel_size_um`. Files are
                relative to the folder of the CSV file; absolute paths and `..` are allowed. The separator is a comma,
                semicolon or tab; with semicolons, numbers may have a decimal comma.
            authentic: label of the class to verify.
            page: page of every image, as in `from_folder`.
            max_pixels: maximum size of an image in pixels; `MAX_PIXELS` if None.
            progress: called with (files read, total files) after each file.

        Raises:
            ReferenceSetError: as `from_folder`, or the CSV file is malformed; the message names the line.
        """
        return cls(tuple(sources.from_csv(path, authentic, page, max_pixels, progress)), authentic)

    @classmethod
    def from_micrographs(
        cls,
        micrographs: Sequence[Micrograph],
        labels: Sequence[str],
        *,
        authentic: str,
        groups: Sequence[str] | None = None,
        marks: Sequence[ArrayLike | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> ReferenceSet:
        """Label micrographs in memory. All sequences have one entry per micrograph.

        Args:
            micrographs: the images; wrap arrays with `Micrograph.from_array`.
            labels: the class of each.
            authentic: label of the class to verify.
            groups: the specimen of each. When omitted, each micrograph is its own group, except that pages of one file
                share a group.
            marks: (height, width) flaw mask of each, non-zero at the flaw, or None.
            names: a unique name for each; derived from the source file or the position when omitted.

        Raises:
            ReferenceSetError: the lengths differ, a mark does not fit, or one image has two labels.
        """
        found = sources.from_micrographs(micrographs, labels, authentic, groups, marks, names)
        return cls(tuple(found), authentic)

    def __len__(self) -> int:
        """Return the number of references."""
        return len(self.references)

    def __iter__(self) -> Iterator[Reference]:
        """Iterate over the references in order."""
        return iter(self.references)

    def __getitem__(self, index: int) -> Reference:
        """Return the reference at an index.

        Raises:
            IndexError: the index is out of range.
            ReferenceSetError: `index` is not an integer; use `subset` for several references.
        """
        place = _whole(index)
        if place is None:
            raise ReferenceSetError(f"a reference index is a whole number, not {index!r}; for several, use subset(…)")
        return self.references[place]

    def __repr__(self) -> str:
        """Return the classes and their counts."""
        counts = ", ".join(f"{label}: {count}" for label, count in self.counts.items())
        return f"ReferenceSet({counts}; authentic={self.authentic!r}, {len(self.groups)} groups)"

    @property
    def labels(self) -> tuple[str, ...]:
        """The class labels: the authentic one first, then the others, sorted."""
        return (self.authentic, *sorted({reference.label for reference in self.references} - {self.authentic}))

    @property
    def counts(self) -> dict[str, int]:
        """Number of references per class, in the order of `labels`."""
        counted = Counter(reference.label for reference in self.references)
        return {label: counted[label] for label in self.labels}

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct groups (specimens), sorted."""
        return tuple(sorted({reference.group for reference in self.references}))

    def shots(self, k: int) -> ReferenceSet:
        """Return the first `k` references of each class, in order, or all of a class with fewer.

        Raises:
            ReferenceSetError: `k` is not an integer of at least 1, or exceeds the count of every class.
        """
        kept = first_of_each([reference.label for reference in self.references], k)
        return ReferenceSet(tuple(self.references[place] for place in kept), self.authentic)

    def subset(self, indices: Iterable[int]) -> ReferenceSet:
        """Return the references at these indices (0 to len - 1), in the given order.

        Raises:
            ReferenceSetError: an index is out of range, not an integer or repeated, or no authentic reference remains.
        """
        places: list[int] = []
        for index in indices:
            place = _whole(index)
            if place is None or not 0 <= place < len(self):
                raise ReferenceSetError(f"reference indices are whole numbers from 0 to {len(self) - 1}, not {index!r}")
            places.append(place)
        if len(set(places)) != len(places):
            repeated = Counter(places).most_common(1)[0][0]
            raise ReferenceSetError(f"reference index {repeated} is given twice: a subset takes each reference once")
        return ReferenceSet(tuple(self.references[place] for place in places), self.authentic)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of everything that enrolment depends on, in order.

        It covers the authentic label and each reference's label, group, file digest, page, dtype, size, channels, pixel
        size and mark. Names and file locations are not included.
        """
        digest = hashlib.sha256()
        digest.update(_line(["fusion-diff references", 1, self.authentic]))
        for reference in self.references:
            digest.update(_line(_identity(reference)))
        return digest.hexdigest()


def first_of_each(labels: Sequence[str], k: int) -> list[int]:
    """Return the indices of the first `k` of each label, in order, or all of a label with fewer.

    Raises:
        ReferenceSetError: `k` is not an integer of at least 1, or exceeds the count of every label.
    """
    wanted, counts = _whole(k), Counter(labels)
    if wanted is None or wanted < 1:
        raise ReferenceSetError(f"shots must be a whole number of at least 1, not {k!r}")
    if wanted > max(counts.values()):
        enrolled = ", ".join(f"{label} {count}" for label, count in counts.items())
        raise ReferenceSetError(
            f"shots is {wanted}, but no class has that many references ({enrolled}): "
            "use fewer shots, or omit shots to use all references"
        )
    taken: Counter[str] = Counter()
    kept = []
    for place, label in enumerate(labels):
        taken[label] += 1
        if taken[label] <= wanted:
            kept.append(place)
    return kept


def _whole(value: Any) -> int | None:
    """Return `value` as an int, or None if it is not an integer. Booleans are masks or mistakes and give None."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _identity(reference: Reference) -> list[Any]:
    micrograph, mark = reference.micrograph, reference.mark
    # The size distinguishes a micrograph without its data bar from the whole one: both have the same file digest.
    return [
        reference.label,
        reference.group,
        micrograph.sha256 if not micrograph.page else f"{micrograph.sha256}, page {micrograph.page}",
        [str(micrograph.dtype), micrograph.height, micrograph.width, micrograph.channels],
        micrograph.pixel_size_um,
        None if mark is None else hashlib.sha256(np.packbits(mark).tobytes()).hexdigest(),
    ]


def _line(values: list[Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"
