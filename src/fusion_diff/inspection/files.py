"""Writing text files of reports, with their folder, completely or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def write_text(file: Path, text: str) -> Path:
    """Write a text file in UTF-8, replacing an older one atomically, and return its path.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8"))
    return file
