"""The folder of uploads: nothing stays in it that nobody will fetch."""

from __future__ import annotations

import io

import pytest

from fusion_diff.service.uploads import claim, receive

pytest.importorskip("fcntl")


def test_what_a_killed_process_left_is_removed_at_the_next_start_but_nothing_of_one_that_is_at_work(tmp_path):
    folder = tmp_path / "incoming"
    first = claim(folder)
    left = folder / "upload-1"
    left.write_bytes(b"x")
    fetched = folder / "upload-2"
    fetched.mkdir()
    (fetched / "copy").write_bytes(b"x")
    second = claim(folder)
    assert left.exists(), "the first is at work"
    first.close()
    third = claim(folder)
    assert left.exists(), "the second is"
    second.close()
    third.close()
    claim(folder).close()
    assert not left.exists()
    assert not fetched.exists()


def test_an_upload_whose_last_bytes_do_not_fit_on_the_disk_leaves_no_file(tmp_path, room_for):
    """So few bytes are written at the close."""
    with room_for(0), pytest.raises(OSError, match="File too large"):
        receive(io.BytesIO(b"few bytes"), "a.tif", tmp_path, 100)
    assert not list(tmp_path.iterdir())
