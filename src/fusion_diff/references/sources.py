"""Sources of references: a folder per class, a CSV file, or micrographs in memory."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError, ReferenceSetError
from fusion_diff.home import is_file, is_folder
from fusion_diff.micrograph import Micrograph, load_microstructure_data
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES, warn_of_unread
from fusion_diff.printable import printable
from fusion_diff.references.folders import (
    as_path,
    class_folders,
    image_files,
    images_below,
    unread_files,
)
from fusion_diff.references.groups import Groups, group_names
from fusion_diff.references.marks import find_marks, fit_mark, read_mark
from fusion_diff.references.reference import (
    Reference,
    alike_in_letters,
    check_authentic,
    check_size,
    composed,
    listing,
)
from fusion_diff.references.tables import Row, read_table
from fusion_diff.warn import warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]

_MOST_MARKED = 0.5
"""Largest plausible share of a micrograph under a mark. A larger share suggests an inverted mask."""


@dataclass(frozen=True)
class _Entry:
    """A reference that has not been read yet."""

    path: Path
    label: str
    group: str
    name: str
    mark: Path | None
    pixel_size_um: float | None


def from_folder(
    path: str | os.PathLike[str],
    authentic: str,
    groups: Groups | None,
    marks: str | os.PathLike[str] | None,
    pixel_size_um: float | None,
    page: int | None,
    max_pixels: int | None,
    progress: Progress | None,
) -> list[Reference]:
    """Read a folder that holds a folder per class; see `ReferenceSet.from_folder`."""
    root = as_path(path, "a folder with a folder of images per class")
    if not is_folder(root):
        kind = "is a file; read a CSV file with from_csv" if is_file(root) else "does not exist; check the path"
        raise ReferenceSetError(f"the reference folder {root} {kind}")
    mark_folder = None if marks is None else as_path(marks, "a folder of marks")
    if mark_folder is not None and not is_folder(mark_folder):
        raise ReferenceSetError(f"the folder of marks {mark_folder} does not exist: check the path")
    folders, mark_folder = class_folders(root, mark_folder)
    images = {label: image_files(folder) for label, folder in folders.items()}
    if not images:
        raise ReferenceSetError(
            f"{root} has no class folders: put the images of each class into a folder of their own, "
            f"such as {root / 'sound'} and {root / 'crack'}"
        )
    check_authentic(authentic, images, str(root))
    authentic = composed(authentic)
    warn_of_unread(printable(root), sum(map(unread_files, folders.values()), Counter()))
    below = [file for folder in folders.values() for file in images_below(folder)]
    empty = [folders[label] for label, files in images.items() if not files]
    if empty:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ReferenceSetError(
            f"these class folders contain no images ({kinds}; subfolders are not searched); add images or remove "
            f"the folders:{listing(empty)}"
        )
    if below:
        many = counted(len(below), "image")
        warn(
            f"{printable(root)}: skipped {many} in subfolders of the classes; put those that are references directly "
            f"into the folder of their class:{listing(below)}"
        )
    check_size(sum(map(len, images.values())), str(root))
    found = {} if mark_folder is None else find_marks(mark_folder, images)
    order = sorted(images, key=lambda label: (label != authentic, label))
    files = {f"{label}/{file.name}": (label, file) for label in order for file in images[label]}
    if groups is None and is_file(root / "groups.csv"):
        groups = root / "groups.csv"
    group_of = group_names(list(files), groups)
    entries = [
        _Entry(file, label, group_of[name], name, found.get(file), pixel_size_um)
        for name, (label, file) in files.items()
    ]
    return _read(entries, authentic, page, max_pixels, progress)


def from_csv(
    path: str | os.PathLike[str], authentic: str, page: int | None, max_pixels: int | None, progress: Progress | None
) -> list[Reference]:
    """Read the references that a CSV file lists; see `ReferenceSet.from_csv`."""
    table = as_path(path, "a CSV file of references")
    rows = read_table(table, required=("file", "label"), optional=("group", "mark", "pixel_size_um"))
    check_size(len(rows), str(table))
    check_authentic(authentic, (row.cells["label"] for row in rows), str(table))
    authentic = composed(authentic)
    entries: dict[str, tuple[_Entry, Row]] = {}
    for row in rows:
        file = _existing(row, "file", table.parent)
        name = file.replace(os.sep, "/")
        entry = _Entry(
            path=table.parent / file,
            label=composed(row.cells["label"]),
            group=row.cells["group"] or name,
            name=name,
            mark=table.parent / _existing(row, "mark", table.parent) if row.cells["mark"] else None,
            pixel_size_um=_pixel_size(row),
        )
        first, above = entries.setdefault(name, (entry, row))
        if above is not row:
            _expect_same(table, (first, above), (entry, row))
    return _read([entry for entry, _ in entries.values()], authentic, page, max_pixels, progress)


def _expect_same(table: Path, first: tuple[_Entry, Row], second: tuple[_Entry, Row]) -> None:
    """Refuse two lines that say different things of one file; warn of two that say the same."""
    (entry, row), (other, repeated) = first, second
    where = f"{table}, lines {row.line} and {repeated.line}: the same file, {entry.name}"
    if entry == other:
        warn(f"{where}; it is used once")
        return
    differing = [
        f"{what} {one!r} and {two!r}"
        for what, one, two in (("labels", entry.label, other.label), ("groups", entry.group, other.group))
        if one != two
    ] or ["marks or pixel sizes that differ"]
    raise ReferenceSetError(f"{where}, with the {' and the '.join(differing)}; keep one of the lines")


def from_micrographs(
    micrographs: Iterable[Micrograph],
    labels: Iterable[str],
    authentic: str,
    groups: Iterable[str] | None,
    marks: Iterable[Any] | None,
    names: Iterable[str] | None,
) -> list[Reference]:
    """Label micrographs in memory; see `ReferenceSet.from_micrographs`."""
    # Lists, because indices into a pandas Series are labels instead of positions, and generators have none.
    images, classes = _listed("micrographs", micrographs), _listed("labels", labels)
    count = len(images)
    if not count:
        raise ReferenceSetError("there are no micrographs to label: give at least one authentic micrograph")
    check_size(count, "the sequence")
    named = _default_names(images, classes) if names is None else _listed("names", names)
    specimens = _default_groups(images, named) if groups is None else _listed("groups", groups)
    drawn = [None] * count if marks is None else _listed("marks", marks)
    for what, values in (("labels", classes), ("names", named), ("groups", specimens), ("marks", drawn)):
        if len(values) != count:
            raise ReferenceSetError(f"there are {count} micrographs but {len(values)} {what}: give as many")
    check_authentic(authentic, map(str, classes), "the sequence")
    authentic = composed(authentic)
    references: list[Reference] = []
    for micrograph, label, group, name, values in zip(images, classes, specimens, named, drawn, strict=True):
        reference = Reference(micrograph, label, group, name)
        mark = None if values is None else fit_mark(values, micrograph, f"the mark of {name}", name)
        references.append(_marked(reference, mark, f"the mark of {name}", authentic))
    _warn_of_groups_alike(references)
    return references


def _listed(what: str, values: Any) -> list[Any]:
    try:
        if not isinstance(values, str | Mapping | Set):  # these have no order, or keys for values
            return list(values)
    except TypeError:
        pass
    raise ReferenceSetError(f"{what} must have one value per micrograph, not be a {type(values).__name__}: give a list")


def _read(
    entries: list[_Entry], authentic: str, page: int | None, max_pixels: int | None, progress: Progress | None
) -> list[Reference]:
    """Read every entry. All unreadable files are collected into one error."""
    references: list[Reference] = []
    faults: list[str] = []
    for done, entry in enumerate(entries, start=1):
        try:
            micrograph = load_microstructure_data(
                entry.path, pixel_size_um=entry.pixel_size_um, page=page, max_pixels=max_pixels
            )
            reference = Reference(micrograph, entry.label, entry.group, entry.name)
            mark = None if entry.mark is None else read_mark(entry.mark, micrograph, str(entry.path))
            references.append(_marked(reference, mark, f"the mark {entry.mark}", authentic))
        except (MicrographError, ReferenceSetError) as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{entry.path} cannot be read: {error.strerror or error}")
        if progress is not None:
            progress(done, len(entries))
    if len(faults) == 1:
        raise ReferenceSetError(faults[0])
    if faults:
        raise ReferenceSetError(
            f"{len(faults)} of {len(entries)} references cannot be used; correct or remove them:{listing(faults)}"
        )
    _warn_of_groups_alike(references)
    return references


def _warn_of_groups_alike(references: list[Reference]) -> None:
    """Warn of groups that differ in spelling only: a specimen in two groups would be on both sides of a split."""
    for one, other in alike_in_letters(reference.group for reference in references):
        warn(f"the groups {one!r} and {other!r} differ only in case or in blanks; if they are one, use one spelling")


def _marked(reference: Reference, mark: NDArray[np.bool_] | None, what: str, authentic: str) -> Reference:
    """Return the reference with its mark. An empty mark is dropped, with a warning unless its class is authentic."""
    if mark is None:
        return reference
    if mark.any():
        if reference.label == authentic:
            raise ReferenceSetError(
                f"{what} marks a flaw on {reference.name}, which is authentic ({authentic!r}): remove the mark, or "
                "label the reference as the flaw it shows"
            )
        if mark.mean() > _MOST_MARKED:
            warn(
                f"{what} covers {mark.mean():.0%} of {reference.name} and is probably inverted; a mark must be white "
                "on the flaw and black elsewhere"
            )
        return replace(reference, mark=mark)
    if reference.label != authentic:
        warn(f"{what} is empty; {reference.name} is used without a mark")
    return reference


def _default_names(micrographs: Sequence[Micrograph], labels: Sequence[str]) -> list[str]:
    names: dict[str, None] = {}
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=False)):  # lengths are checked later
        source = getattr(micrograph, "source", None)  # objects other than micrographs are refused later
        name = f"{label}/{index:04d}" if source is None else f"{label}/{source.name}"
        names[name if name not in names else f"{name}#{index}"] = None
    return list(names)


def _default_groups(micrographs: Sequence[Micrograph], names: Sequence[str]) -> list[str]:
    """Return a separate group for each micrograph, except that all pages of a file (slices of a stack) share one."""
    first: dict[str, str] = {}
    groups = []
    for micrograph, name in zip(micrographs, names, strict=False):  # lengths are checked later
        source = getattr(micrograph, "source", None)  # objects other than micrographs are refused later
        groups.append(name if source is None else first.setdefault(micrograph.sha256, name))
    return groups


def _existing(row: Row, column: str, folder: Path) -> str:
    """Return the spelling of the file name in a cell for which a file exists, relative to the CSV file's folder."""
    spellings = row.spellings(column)
    for name in spellings:
        if is_file(folder / name):
            return name
    raise ReferenceSetError(
        f"{row.where}: the {column} {folder / spellings[-1]} does not exist; "
        "give paths relative to the folder of the CSV file"
    )


def _pixel_size(row: Row) -> float | None:
    text = row.cells["pixel_size_um"]
    if not text:
        return None
    comma = re.fullmatch(r"\d*,\d+", text) is not None
    try:
        value = float(text.replace(",", ".") if comma and row.separator == ";" else text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        hint = f"; write it with a decimal point, as {text.replace(',', '.')}" if comma and row.separator != ";" else ""
        raise ReferenceSetError(
            f"{row.where}: pixel_size_um must be a positive number of micrometres, not {text!r}{hint}"
        )
    return value
