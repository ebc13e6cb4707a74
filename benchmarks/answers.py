"""Answers of a benchmark, kept in a file as they come: a run that was cut off goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Answers:
    """What was found so far, a line of JSON each, by what was asked."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text("utf-8") if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a run that was killed may leave half a line
        rows = [json.loads(line) for line in whole.splitlines()]
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in rows}
        self.file = file.open("a", encoding="utf-8")
        self.file.truncate(len(whole.encode()))

    def get(self, about: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the answer to what is asked, with what was asked in it; compute it unless it is known."""
        key = json.dumps(about, sort_keys=True)
        if key not in self.rows:
            started = time.perf_counter()
            found = compute()
            row = about | found | {"seconds": round(time.perf_counter() - started, 3), "key": key}
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            self.rows[key] = row
        return self.rows[key]
