"""Results that the other files here store as they compute them, so that an interrupted run can continue.

Keys hold what was asked and of which model, not the code that answered: after a change of method take another file.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def read(file: Path) -> list[dict[str, Any]]:
    """Return the results in a file, none if it does not exist; an incomplete last line is ignored."""
    text = file.read_text("utf-8") if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def append(file: Path) -> TextIO:
    """Open a file for appending results, after removing an incomplete last line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = file.read_bytes() if file.exists() else b""
    stream = file.open("a", encoding="utf-8")
    stream.truncate(content.rfind(b"\n") + 1)
    return stream


def change(differences: Sequence[float], digits: int) -> str:
    """Return the mean of differences that are paired by draw, with its standard error, which a single one has not."""
    mean, count = f"{np.mean(differences):+.{digits}f}", len(differences)
    return mean if count < 2 else f"{mean} ± {np.std(differences, ddof=1) / count**0.5:.{digits}f}"


class Answers:
    """The results so far, one JSON line each, with the question as key."""

    def __init__(self, file: Path) -> None:
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in read(file)}
        self.file = append(file)

    def get(self, about: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result for a question, merged with the question; compute it unless it is stored."""
        key = json.dumps(about, sort_keys=True)
        if key not in self.rows:
            started = time.perf_counter()
            found = compute()
            row = about | found | {"seconds": round(time.perf_counter() - started, 3), "key": key}
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            self.rows[key] = row
        return self.rows[key]
