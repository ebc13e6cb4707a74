"""The set of references that a model enrols. It is immutable, ordered, and identified by a digest of its content."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import Micrograph
from fusion_diff.references import sources
from fusion_diff.references.copies import alike, without_copies
from fusion_diff.references.groups import Groups
from fusion_diff.references.reference import Reference, check_authentic, check_size, composed, listing
from fusion_diff.references.shots import first_of_each, whole_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceSet:
    """Labelled references in a fixed order; one of their classes is the authentic one.

    Authentic references alone are enough (one-class). A single reference per class is enough too. Sets are joined with
    `ReferenceSet((*first, *second), authentic=...)`.

    Attributes:
        references: the references, in order. An image that occurs twice in a class is kept once, with a warning, so
            later ones move up: split a set by its own `labels` and `groups`.
        authentic: the label of the class being verified.
        allow_conflicts: whether one image may have several labels, as in a set to audit.

    Raises:
        ReferenceSetError: there are no references or more than 5,000, none is authentic, a name occurs twice, two
            labels differ only in case or blanks, an authentic reference has a flaw marked on it, or one image has
            several labels.
    """

    references: tuple[Reference, ...]
    authentic: str
    allow_conflicts: bool = False

    def __post_init__(self) -> None:
        """Check the set as a whole. Each reference has checked its own fields."""
        if not isinstance(self.references, Iterable):
            kind = type(self.references).__name__
            raise ReferenceSetError(f"a reference set holds several Reference objects, not a {kind}: give a list")
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
        authentic = composed(str(self.authentic))  # NumPy's strings show their type in messages
        object.__setattr__(self, "authentic", authentic)
        repeated = alike([reference.micrograph for reference in self.references])
        if not self.allow_conflicts:
            self._expect_one_label_each(repeated)
        object.__setattr__(self, "references", without_copies(self.references, repeated))
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

    def _expect_one_label_each(self, repeated: Sequence[Sequence[int]]) -> None:
        found = []
        for places in repeated:
            copies = [self.references[place] for place in places]
            if len({copy.label for copy in copies}) > 1:
                found.append(" and ".join(f"{copy.name} ({copy.label!r})" for copy in copies))
        if len(found) == 1:
            raise ReferenceSetError(f"{found[0]} are the same image with different labels: keep the correct one")
        if found:
            raise ReferenceSetError(
                f"{len(found)} images have different labels: keep the correct one of each:{listing(found)}"
            )

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        authentic: str,
        groups: Groups | None = None,
        marks: str | os.PathLike[str] | None = None,
        pixel_size_um: float | None = None,
        page: int | None = None,
        max_pixels: int | None = None,
        allow_conflicts: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReferenceSet:
        r"""Read references from a folder that holds one folder of images per class.

        Images are read directly from each class folder; hidden files and files that are not images are skipped. The
        authentic class comes first, then the others by name. Within a class the order is by file name.

        Args:
            path: the folder, for example with `sound/` and `crack/` in it. In paths, `~` stands for the home folder.
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
            allow_conflicts: whether one image may be in several classes, as in a set to audit.
            progress: called with (files read, total files) after each file.

        Raises:
            ReferenceSetError: the folder or its classes are missing or empty, files cannot be read (the error lists
                all of them), a mark does not fit its micrograph or marks an authentic one, a file has no group, or one
                image is in two classes.

        Warns:
            UserWarning: a mark is empty, covers more than half of its micrograph or belongs to no image, an image
                occurs twice in a class (kept once), groups differ only in case or blanks, or images in subfolders or
                files of unsupported kinds were skipped.
        """
        found = sources.from_folder(path, authentic, groups, marks, pixel_size_um, page, max_pixels, progress)
        return cls(tuple(found), authentic, allow_conflicts)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        authentic: str,
        page: int | None = None,
        max_pixels: int | None = None,
        allow_conflicts: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReferenceSet:
        """Read references listed in a UTF-8 CSV file, in the order of its lines.

        Args:
            path: CSV file with a header and the columns `file` and `label`, optionally `group` (as in `from_folder`;
                a row without one is its own group), `mark` (file of the flaw mask) and `pixel_size_um`. Files are
                relative to the folder of the CSV file; absolute paths and `..` are allowed. The separator is a comma,
                semicolon or tab; with semicolons, numbers may have a decimal comma. In `path` itself, `~` stands for
                the home folder.
            authentic: label of the class to verify.
            page: page of every image, as in `from_folder`.
            max_pixels: maximum size of an image in pixels; `MAX_PIXELS` if None.
            allow_conflicts: as in `from_folder`.
            progress: called with (files read, total files) after each file.

        Raises:
            ReferenceSetError: as `from_folder`, or the CSV file is malformed; the message names the line.
        """
        found = sources.from_csv(path, authentic, page, max_pixels, progress)
        return cls(tuple(found), authentic, allow_conflicts)

    @classmethod
    def from_micrographs(
        cls,
        micrographs: Iterable[Micrograph],
        labels: Iterable[str],
        *,
        authentic: str,
        groups: Iterable[str] | None = None,
        marks: Iterable[ArrayLike | None] | None = None,
        names: Iterable[str] | None = None,
        allow_conflicts: bool = False,
    ) -> ReferenceSet:
        """Label micrographs in memory. All arguments with several values have one per micrograph, in their order.

        Args:
            micrographs: the images; wrap arrays with `Micrograph.from_array`.
            labels: the class of each.
            authentic: label of the class to verify.
            groups: the specimen of each. When omitted, each micrograph is its own group, except that pages of one file
                share a group.
            marks: (height, width) flaw mask of each, non-zero at the flaw, or None.
            names: a unique name for each; derived from the source file or the position when omitted.
            allow_conflicts: as in `from_folder`.

        Raises:
            ReferenceSetError: the lengths differ, a mark does not fit, or one image has two labels.
        """
        found = sources.from_micrographs(micrographs, labels, authentic, groups, marks, names)
        return cls(tuple(found), authentic, allow_conflicts)

    def __len__(self) -> int:
        """Return the number of references."""
        return len(self.references)

    def __iter__(self) -> Iterator[Reference]:
        """Iterate over the references in order."""
        return iter(self.references)

    def __getitem__(self, index: SupportsIndex) -> Reference:
        """Return the reference at an index.

        Raises:
            IndexError: the index is out of range.
            ReferenceSetError: `index` is not an integer; use `subset` for several references.
        """
        place = whole_number(index)
        if place is None:
            raise ReferenceSetError(f"a reference index is a whole number, not {index!r}; for several, use subset(…)")
        return self.references[place]

    def __repr__(self) -> str:
        """Return the classes and their counts."""
        counts = ", ".join(f"{label}: {count}" for label, count in self.counts.items())
        return f"ReferenceSet({counts}; authentic={self.authentic!r}, {len(self.specimens)} groups)"

    @property
    def labels(self) -> tuple[str, ...]:
        """The class of each reference, in order."""
        return tuple(reference.label for reference in self.references)

    @property
    def groups(self) -> tuple[str, ...]:
        """The group (specimen) of each reference, in order."""
        return tuple(reference.group for reference in self.references)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels: the authentic one first, then the others, sorted."""
        return (self.authentic, *sorted(set(self.labels) - {self.authentic}))

    @property
    def specimens(self) -> tuple[str, ...]:
        """The distinct groups, sorted."""
        return tuple(sorted(set(self.groups)))

    @property
    def counts(self) -> dict[str, int]:
        """Number of references per class, in the order of `classes`."""
        counted = Counter(self.labels)
        return {label: counted[label] for label in self.classes}

    def shots(self, k: int) -> ReferenceSet:
        """Return `k` references of each class, or all of a class with fewer, in the order of this set.

        They are of as many specimens as possible: first the first reference of each specimen, then the second of each.

        Raises:
            ReferenceSetError: `k` is not an integer of at least 1, or exceeds the count of every class.
        """
        return self._chosen(first_of_each(self.labels, self.groups, k))

    def subset(self, indices: Iterable[int]) -> ReferenceSet:
        """Return the references at these indices (0 to len - 1), in the given order, or those where a mask is true.

        Raises:
            ReferenceSetError: an index is out of range, not an integer or repeated, a mask has another length, or no
                authentic reference remains.
        """
        if not isinstance(indices, Iterable):  # such as a slice
            raise ReferenceSetError(f"reference indices are several whole numbers, not {indices!r:.80}; give a list")
        given = list(indices)
        if len(given) == len(self) and all(isinstance(each, bool | np.bool_) for each in given):
            given = np.flatnonzero(given).tolist()
        places: list[int] = []
        for index in given:
            place = whole_number(index)
            if place is None or not 0 <= place < len(self):
                raise ReferenceSetError(
                    f"reference indices are whole numbers from 0 to {len(self) - 1}, or {len(self)} booleans, "
                    f"not {index!r}; a set leaves copies out, so split it by its own labels and groups"
                )
            places.append(place)
        if len(set(places)) != len(places):
            repeated = Counter(places).most_common(1)[0][0]
            raise ReferenceSetError(f"reference index {repeated} is given twice: a subset takes each reference once")
        return self._chosen(places)

    def _chosen(self, places: Iterable[int]) -> ReferenceSet:
        return replace(self, references=tuple(self.references[place] for place in places))

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
