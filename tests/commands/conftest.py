"""The command line, run in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(call_with_darkness: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """Runs the command line with the darkness model in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return call_with_darkness
