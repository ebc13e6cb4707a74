"""Atomic writing of files and folders."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fusion_diff import whole
from fusion_diff.whole import WholeFolder, whole_file, write_whole


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_file_is_there_when_it_is_complete_and_replaces_the_one_before(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with whole_file(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
        assert part.parent == tmp_path, "on the same disk"
    assert file.read_text() == "new"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)])
def test_permissions_are_those_that_the_umask_leaves(tmp_path, umask, mask, file, folder):
    umask(mask)
    with whole_file(tmp_path / "a.txt") as part:
        part.unlink()  # safetensors puts a file there that only its owner may read
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
    with WholeFolder(tmp_path / "folder"):
        pass
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    write_whole(tmp_path / "a.txt", b"old")
    with pytest.raises(TypeError), whole_file(tmp_path / "a.txt") as part:
        part.open("w").writelines(["half", 1])
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert names(tmp_path) == {"a.txt"}


def test_two_that_write_one_file_at_once_do_not_disturb_each_other(tmp_path):
    with whole_file(tmp_path / "a.txt") as one:
        with whole_file(tmp_path / "a.txt") as other:
            one.write_text("one")
            other.write_text("other")
        assert (tmp_path / "a.txt").read_text() == "other"
    assert (tmp_path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("make", [False, True])
def test_an_error_of_the_system_names_the_file_itself(tmp_path, make):
    file = tmp_path / "gone" / "a.txt"
    if make:  # the target of the file is a folder
        (file / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.txt") as caught:
        write_whole(file, b"content")
    assert caught.value.filename == str(file)
    with pytest.raises(OSError, match="No space") as caught, whole_file(tmp_path / "b.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "b.txt")
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "b.txt"):
        (tmp_path / "other.txt").read_text()
    assert caught.value.filename == str(tmp_path / "other.txt"), "of another file that could not be read"


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_is_there_when_it_is_complete(tmp_path, replace):
    place = tmp_path / "new" / "folder"
    with WholeFolder(place, replace=replace) as draft:
        (draft / "a.txt").write_text("a")
        assert not place.exists()
    assert names(place) == {"a.txt"}
    assert names(tmp_path / "new") == {"folder"}


@pytest.mark.parametrize("replace", [False, True])
def test_after_an_error_the_place_of_a_folder_is_as_it_was(tmp_path, replace):
    with pytest.raises(TypeError), WholeFolder(tmp_path / "folder", replace=replace) as draft:
        (draft / "a.txt").open("w").writelines(["half", 1])
    assert names(tmp_path) == set()


def test_a_folder_with_something_in_it_is_replaced_only_where_that_is_wanted(tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    with WholeFolder(place) as draft:  # an empty one is replaced
        (draft / "old.txt").write_text("old")
    with pytest.raises(OSError, match="not empty"), WholeFolder(place) as draft:
        (draft / "new.txt").write_text("new")
    assert names(place) == {"old.txt"}
    with WholeFolder(place, replace=True) as draft:
        (draft / "new.txt").write_text("new")
    assert names(place) == {"new.txt"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.skipif(sys.platform != "linux", reason="folders trade places on Linux only")
def test_a_kill_at_any_rename_leaves_a_folder_at_the_place(tmp_path):
    """The process ends right after each rename in turn, as if it were killed."""
    program = (
        "import os, sys; from pathlib import Path; from fusion_diff.whole import WholeFolder\n"
        "rename, left = Path.rename, [int(sys.argv[2])]\n"
        "def killed(self, target):\n"
        "    rename(self, target)\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os._exit(9)\n"
        "Path.rename = killed\n"
        "with WholeFolder(Path(sys.argv[1]), replace=True) as draft: (draft / 'a.txt').write_text('new')"
    )
    for at in (1, 2):
        place = tmp_path / str(at)
        place.mkdir()
        (place / "a.txt").write_text("old")
        subprocess.run([sys.executable, "-c", program, str(place), str(at)], check=False)
        assert (place / "a.txt").read_text() in ("old", "new")


def test_where_folders_cannot_trade_places_one_is_moved_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    place = tmp_path / "folder"
    for text in ("old", "new"):
        with WholeFolder(place, replace=True) as draft:
            (draft / f"{text}.txt").write_text(text)
    assert names(place) == {"new.txt"}
    assert names(tmp_path) == {"folder"}
