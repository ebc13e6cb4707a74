"""Images and class folders in a folder of references."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from fusion_diff.errors import ReferenceSetError
from fusion_diff.home import at_home, is_file, is_folder
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES, UNREAD_SUFFIXES, search
from fusion_diff.references.reference import composed


def as_path(path: Any, what: str) -> Path:
    """Return a user's path, in which `~` stands for the home folder; `what` it names is for the error message.

    Raises:
        ReferenceSetError: it is not a path.
    """
    try:
        return at_home(path)
    except (TypeError, ValueError) as error:
        said = type(path).__name__ if isinstance(error, TypeError) else f"{path!r} ({error})"
        raise ReferenceSetError(f"expected the path of {what}, got {said}; pass a string or a Path") from error


def image_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted by name, without hidden files; empty if there is no folder."""
    if not is_folder(folder):
        return []
    # A broken link stays in the list, so that it is reported as unreadable instead of being skipped.
    found = (
        path
        for path in _entries(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and (is_file(path) or path.is_symlink())
        and not is_folder(path)
    )
    return sorted(found, key=lambda path: path.name)


def unread_files(folder: Path) -> Counter[str]:
    """Count the image files of unsupported kinds directly in a folder by suffix, without hidden files."""
    suffixes = (path.suffix.lower() for path in _entries(folder) if not path.name.startswith(".") and is_file(path))
    return Counter(suffix for suffix in suffixes if suffix in UNREAD_SUFFIXES)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, sorted by name, except hidden ones and archivers' ones (`__MACOSX`)."""
    found = (path for path in _entries(folder) if is_folder(path) and not path.name.startswith((".", "__")))
    return sorted(found, key=lambda path: path.name)


def class_folders(root: Path, marks: Path | None) -> tuple[dict[str, Path], Path | None]:
    """Return the folder of each class in a folder of references, and the folder of marks.

    Args:
        root: the folder of references.
        marks: the folder of marks that was given. None takes `masks` in `root`, in upper or lower case, if it exists.

    Raises:
        ReferenceSetError: two of the folders have one name, in different Unicode forms, or are both folders of marks.
    """
    folders: dict[str, Path] = {}
    masks: list[Path] = []
    for folder in visible_folders(root):
        if folder.name.casefold() == "masks":
            masks.append(folder)
        elif marks is None or not folder.samefile(marks):
            first = folders.setdefault(composed(folder.name), folder)
            if first is not folder:
                raise ReferenceSetError(
                    f"{root}: two folders are named {first.name}, in different Unicode forms of its letters: put their "
                    "images into one"
                )
    if marks is None and len(masks) > 1:
        raise ReferenceSetError(f"{root}: {masks[0].name} and {masks[1].name} are both folders of marks: keep one")
    return folders, marks or next(iter(masks), None)


def images_below(folder: Path) -> list[Path]:
    """Return the images in the subfolders of a folder, sorted, except hidden ones and those of archivers."""
    return sorted(path for inner in visible_folders(folder) for path in _searched(inner))


def _searched(folder: Path) -> list[Path]:
    try:
        return list(search(folder))
    except OSError:
        return []  # nothing is read from it


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ReferenceSetError(
            f"{folder}: the folder cannot be listed ({error.strerror or error}); check its permissions"
        ) from error
