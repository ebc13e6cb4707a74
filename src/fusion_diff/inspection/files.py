"""Output files: which existing files they must not replace, and writing text completely or not at all.

Shells expand patterns, so `--json new/*.png` names a micrograph as the output. Inputs are therefore never overwritten.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.micrograph.discover import IMAGE_SUFFIXES
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Collection

IN_MODEL = "lies in the folder of the model, which must stay as it was saved; choose another folder"
_HEAD = 4096
"""Bytes of a file that are searched for a key."""


def write_text(file: Path, text: str) -> Path:
    """Write a text file in UTF-8, replacing an older one atomically, and return its path.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8"))
    return file


def refusal(file: Path, read: Collection[object] = (), model: str | None = None) -> str | None:
    """Return why a file must not be written to, with the cure; None if it may.

    Args:
        file: the output.
        read: the `place` of each file that is read.
        model: the model by name, folder or hub id.
    """
    if place(file) in read:
        return "is one of the inputs, which are not overwritten; name another file"
    if file.suffix.lower() in IMAGE_SUFFIXES and file.exists():
        return "is an existing image, which is not overwritten; name another file, and list the images apart from it"
    if _is_key(file):
        return "is a key or a certificate, which is not overwritten; name another file"
    if model is not None and lies_in(file, Path(model)):
        return IN_MODEL
    return None


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it, also through links."""
    real, here = Path(os.path.realpath(path)), place(folder)
    return folder.is_dir() and any(place(each) == here for each in (real, *real.parents))


def place(file: Path) -> object:
    """Return a value that is equal for all paths of one file, also through links, existing or not."""
    try:
        found = file.stat()
    except OSError:  # it is missing, or reported later
        return os.path.normcase(os.path.realpath(file))
    return found.st_dev, found.st_ino


def _is_key(file: Path) -> bool:
    """Return whether an existing file is PEM: a key, or a certificate. Text such as `Expires:` may stand before it."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        with file.open("rb") as stream:
            return re.search(rb"^-----BEGIN [A-Z]", stream.read(_HEAD), re.MULTILINE) is not None
    except OSError:  # reported on writing
        return False
