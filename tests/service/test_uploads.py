"""The folder of uploads: nothing stays in it that nobody will fetch."""

from __future__ import annotations

import io
import signal

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


def test_an_upload_whose_last_bytes_do_not_fit_on_the_disk_leaves_no_file(tmp_path):
    """A limit on file sizes simulates a full disk. So few bytes are written at the close."""
    resource = pytest.importorskip("resource")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            receive(io.BytesIO(b"few bytes"), "a.tif", tmp_path, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())
