"""Progress without a terminal: one line per minute."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fusion_diff.commands import terminal
from fusion_diff.commands.terminal import Minutes, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Current time in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_minute_is_over_once(clock):
    minutes, over = Minutes(), []
    for clock.now in (59.0, 60.0, 61.0, 119.0, 120.0, 500.0, 501.0):
        over.append(minutes.over())
    assert over == [False, True, False, False, True, True, False]


def test_a_line_is_told_a_minute(clock, capsys):
    with progress_bar("Reading") as advance:
        for done in range(1, 5):
            clock.now = done * 40.0
            advance(done, 4)
    assert capsys.readouterr().err.split("\n") == ["Reading 2/4", "Reading 4/4", ""]


def test_a_long_name_leaves_room_for_the_bar(clock, capsys):
    with progress_bar("Reading") as advance:
        clock.now = 80.0
        advance(1, 2, Path(f"lot-{'7' * 60}-end.tif"))
    assert capsys.readouterr().err == "Reading 1/2 lot-7777777777…777777-end.tif\n"
