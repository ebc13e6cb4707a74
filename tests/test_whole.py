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
    with pytest.raises(OSError, match="No space") as caught, WholeFolder(tmp_path / "folder"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "folder")


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


def test_an_empty_folder_is_replaced_also_where_nothing_can_be_moved_onto_a_folder(tmp_path, monkeypatch):
    """As on Windows."""

    def refusing(move):
        def moved(self, target):
            if Path(target).is_dir():
                raise PermissionError(errno.EACCES, "Access is denied", str(self), None, str(target))
            return move(self, target)

        return moved

    monkeypatch.setattr(Path, "rename", refusing(Path.rename))
    monkeypatch.setattr(Path, "replace", refusing(Path.replace))
    (tmp_path / "folder").mkdir()
    with WholeFolder(tmp_path / "folder") as draft:
        (draft / "a.txt").write_text("a")
    assert names(tmp_path / "folder") == {"a.txt"}


KILLED = """
import os, sys
from pathlib import Path
from fusion_diff import whole

left, exchange, rename = int(sys.argv[2]), whole._exchange, Path.rename

def killed(move):
    def moved(*paths):
        global left
        done = move(*paths)
        left -= 1
        if not left:
            os._exit(9)
        return done
    return moved

whole._exchange = killed(exchange) if sys.argv[3] == "exchange" else lambda *_: False
Path.rename = killed(rename)
with whole.WholeFolder(Path(sys.argv[1]), replace=True) as draft:
    (draft / "a.txt").write_text("new")
"""
"""Replaces a folder, and ends right after one of the moves as if it were killed."""


@pytest.fixture
def replaced(tmp_path):
    """A folder whose file a.txt says "old"."""
    place = tmp_path / "folder"
    place.mkdir()
    (place / "a.txt").write_text("old")
    return place


def killed_at(move, way, place):
    done = subprocess.run([sys.executable, "-c", KILLED, str(place), str(move), way], check=False)
    assert done.returncode == 9, "the process was killed"


def test_a_kill_after_two_folders_traded_places_leaves_the_new_one(replaced, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    if not whole._exchange(other, replaced):
        pytest.skip("folders cannot trade places here")
    whole._exchange(other, replaced)
    killed_at(1, "exchange", replaced)
    assert (replaced / "a.txt").read_text() == "new"


def test_a_kill_between_two_steps_leaves_the_old_folder_beside_the_place(replaced, tmp_path):
    killed_at(1, "two steps", replaced)
    assert not replaced.exists()
    (old,) = tmp_path.glob(".folder.*.old")
    assert (old / "a.txt").read_text() == "old"


def test_a_kill_after_two_steps_leaves_the_new_folder(replaced):
    killed_at(2, "two steps", replaced)
    assert (replaced / "a.txt").read_text() == "new"


@pytest.mark.parametrize(("move", "left"), [(1, "old"), (2, "new")])
def test_a_stop_right_after_a_step_leaves_a_folder_at_the_place(replaced, monkeypatch, move, left):
    """Ctrl-C and SIGTERM come between two instructions."""
    rename, moves = Path.rename, []

    def stopped(self, target):
        rename(self, target)
        moves.append(target)
        if len(moves) == move:
            raise KeyboardInterrupt

    monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), WholeFolder(replaced, replace=True) as draft:
        (draft / "a.txt").write_text("new")
    assert (replaced / "a.txt").read_text() == left


@pytest.fixture
def held(monkeypatch):
    """Lets the first moves fail as where a virus scanner holds a file; gives the list of those that will."""
    moves = [1, 2]

    def failing(move):
        def moved(self, target):
            if moves:
                moves.pop()
                raise PermissionError(errno.EACCES, "Access is denied", str(self), None, str(target))
            return move(self, target)

        return moved

    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    return moves


@pytest.mark.parametrize("made", ["a file", "a folder", "a folder again"])
def test_what_is_held_for_a_moment_on_windows_is_moved_then(tmp_path, monkeypatch, held, made):
    place = tmp_path / "made"
    if made == "a folder again":
        place.mkdir()
    monkeypatch.setattr(sys, "platform", "win32")
    if made == "a file":
        write_whole(place, b"content")
    else:
        with WholeFolder(place, replace=True) as draft:
            (draft / "a.txt").write_text("a")
    assert held == []
    assert names(tmp_path) == {"made"}


def test_elsewhere_a_move_that_is_forbidden_is_not_tried_again(tmp_path, held):
    with pytest.raises(PermissionError, match="Access is denied"):
        write_whole(tmp_path / "a.txt", b"content")
    assert held == [1]
    assert names(tmp_path) == set()


def test_on_windows_what_is_held_for_good_is_an_error(tmp_path, held, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(whole, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(PermissionError, match="Access is denied"):
        write_whole(tmp_path / "a.txt", b"content")
    assert held == [1]


def test_a_folder_is_made_where_a_file_manager_looked_into_an_empty_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".DS_Store").write_bytes(b"seen")
    with WholeFolder(tmp_path / "folder") as draft:
        (draft / "a.txt").write_text("a")
    assert names(tmp_path / "folder") == {"a.txt"}


def test_a_complete_folder_that_cannot_be_moved_is_kept_and_named(tmp_path, held):
    with pytest.raises(PermissionError, match="Access is denied") as caught, WholeFolder(tmp_path / "folder") as draft:
        (draft / "a.txt").write_text("a")
    assert caught.value.filename == str(tmp_path / "folder")
    assert str(draft) in str(caught.value)
    assert names(draft) == {"a.txt"}
