"""Output files: which existing files they must not replace, and writing text completely or not at all.

Shells expand patterns, so `--json new/*.png` names a micrograph as the output. Inputs are therefore never overwritten.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.checkpoint import IN_MODEL, enclosing
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Collection

_HEAD = 4096
"""Bytes of a file that are searched for what it is."""
LEDGER, SIGNATURE = "a ledger or its head", "a signature or a signed statement"
_KEPT = {
    "a key or a certificate": rb"^-----BEGIN [A-Z]",  # text such as `Expires:` may stand before it
    LEDGER: rb'\A\s*\{[^{}]*"format"\s*:\s*"fusion-diff/ledger',
    SIGNATURE: rb'\A\s*\{[^{}]*"mediaType"\s*:\s*"application/vnd\.dev\.sigstore\.',
}
"""Start of files that cannot be made again, by what they are."""
REPORT = "a report"
_REPORT = b'<meta name="generator" content="FusionDiff">'


def write_text(file: Path, text: str) -> Path:
    """Write a text file in UTF-8, replacing an older one atomically, and return its path.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8"))
    return file


def refusal(file: Path, read: Collection[object] = (), own: str = "") -> str | None:
    """Return why a file must not be written to, with the cure; None if it may.

    Args:
        file: the output.
        read: the `place` of each file that is read.
        own: `LEDGER` or `SIGNATURE` if the command continues or renews such a file; `REPORT` if it replaces a report,
            and no other page.
    """
    if place(file) in read:
        return "is one of the inputs, which are not overwritten; name another file"
    if file.suffix.lower() in IMAGE_SUFFIXES and file.exists():
        return "is an existing image, which is not overwritten; name another file, and list the images apart from it"
    head = _head(file)
    if (kind := _kept(head)) and kind != own:
        return f"is {kind}, which is not overwritten; name another file"
    if own == REPORT and head and _REPORT not in head:
        return "is a page of another program, which is not overwritten; choose another folder"
    return IN_MODEL if enclosing(file) is not None else None


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


def _head(file: Path) -> bytes:
    """Return the start of an existing file; empty if there is none."""
    if not file.is_file():  # a pipe would be waited for
        return b""
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:  # reported on writing
        return b""


def _kept(head: bytes) -> str | None:
    """Return what a file with this start is if it is one of `_KEPT`, else None."""
    return next((kind for kind, start in _KEPT.items() if re.search(start, head, re.MULTILINE)), None)
