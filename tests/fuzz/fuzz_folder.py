"""Folders of references: `ReferenceSet.from_folder` on files and folders of any name and kind."""

from __future__ import annotations

import os
import random
import shutil
import warnings

import fuzz_png
from common import FOLDER, FindingError, bounded_memory, change_bytes, check_message

from fusion_diff.errors import ReferenceSetError
from fusion_diff.references import ReferenceSet

MAX_LEN = 512
_PIECES = (
    "sound",
    "crack",
    "masks",
    "a.png",
    "b.tif",
    ".hidden.png",
    "groups.csv",
    "/",
    "\n",
    ">",
    "|",
    "*",
    "\x1b[2J",
)


def seeds() -> list[bytes]:
    """Return listings: a line a file (`|` before a pipe, `>` before a link, `/` after a folder), after a pattern."""
    return [
        b"^(.)\nsound/a.png\nsound/b.png\ncrack/a.png\nmasks/crack/a.png\n",
        b"\nsound/a.png\n>crack/a.png\n|crack/p.png\ncrack/b.png/\ngroups.csv\n",
        b"(\nsound/\ncrack/\xff.png\nsound/a.PNG\n",
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Put a name in the place of another; or change bytes anywhere."""
    if rng.random() < 0.4:
        return change_bytes(data, rng)
    at, piece = rng.randrange(len(data) + 1), rng.choice(_PIECES).encode()
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def check(data: bytes) -> None:
    """Lay out the folder and read it."""
    root = FOLDER / "references"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    pattern, *lines = data.split(b"\n")[:24]
    for line in lines:
        _lay_out(os.fsencode(root), line)
    groups = pattern.decode("latin-1")
    if any(sign in groups for sign in "*+{"):  # a pattern is the user's own, and may be as slow as he likes
        groups = ""
    with bounded_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            references = ReferenceSet.from_folder(root, authentic="sound", groups=groups or None)
        except ReferenceSetError as error:
            check_message(error)
            return
    if "sound" not in references.classes:
        raise FindingError("no authentic reference")


def _lay_out(root: bytes, line: bytes) -> None:
    name = line.lstrip(b">|")
    parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..") and b"\0" not in part][:3]
    if not parts:
        return
    path = os.path.join(root, *parts)  # noqa: PTH118  (names that are not text)
    try:
        os.makedirs(path if name.endswith(b"/") else os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        if line.startswith(b">"):
            os.symlink(b"/nowhere", path)  # noqa: PTH211
        elif line.startswith(b"|"):
            os.mkfifo(path)
        elif not name.endswith(b"/"):
            with open(path, "xb") as file:  # noqa: PTH123
                file.write(fuzz_png.seeds()[len(path) % 3])
    except OSError:
        return  # too long, or there already
