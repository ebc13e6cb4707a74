import os
from pathlib import Path

import pytest

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import discover, load_microstructure_data
from fusion_diff.micrograph.discover import match, search


@pytest.fixture
def house(tmp_path):
    """A folder of images, other files, hidden files and subfolders."""
    for name in (
        "b.tif",
        "a.PNG",
        "notes.txt",
        ".hidden.tif",
        "sound/2.jpeg",
        "sound/1.jpg",
        "sound/deep/x.bmp",
        ".cache/old.tif",
        "raw/scan.dat",
        "[odd] name/y.tiff",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(folder, files):
    return [str(file.relative_to(folder)).replace(os.sep, "/") for file in files]


@pytest.mark.parametrize("what", [".", "**", "*"])
def test_pictures_of_kinds_that_are_not_read_are_told_of(house, what):
    for name in ("a.gif", "sound/b.webp", "sound/c.WEBP", ".hidden.gif"):
        (house / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"skipped 3 files of unsupported formats \(1 .gif, 2 .webp\)"):
        assert len(discover(house / what)) == 6
    assert names(house, discover(house / "a.gif")) == ["a.gif"], "a file that is named is tried"


def test_a_folder_is_searched_for_images_with_its_subfolders_in_order(house):
    expected = ["[odd] name/y.tiff", "a.PNG", "b.tif", "sound/1.jpg", "sound/2.jpeg", "sound/deep/x.bmp"]
    assert names(house, discover([house])) == expected


def test_a_folder_that_cannot_be_listed_is_not_passed_over_in_silence(house):
    with pytest.raises(OSError, match="nowhere"):
        list(search(house / "nowhere"))


def test_a_jpeg_may_be_called_jfif(house):
    (house / "raw" / "a.JFIF").write_bytes(b"x")
    assert names(house, discover(house / "raw")) == ["raw/a.JFIF"]


def test_a_single_path_need_not_be_in_a_list(house):
    assert discover(str(house)) == discover([house])
    assert discover(house / "b.tif") == [house / "b.tif"]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(house):
    assert discover([house / "raw/scan.dat", house / ".hidden.tif"]) == [house / "raw/scan.dat", house / ".hidden.tif"]


def test_patterns_are_expanded_and_searched(house):
    assert names(house, discover([str(house / "*.tif")])) == ["b.tif"]
    assert names(house, discover([str(house / "**" / "*.jp*g")])) == ["sound/1.jpg", "sound/2.jpeg"]
    assert names(house, discover([str(house / "so*")])) == ["sound/1.jpg", "sound/2.jpeg", "sound/deep/x.bmp"]
    assert names(house, discover([str(house / "*")]))[:2] == ["[odd] name/y.tiff", "a.PNG"]


def test_a_pattern_that_ends_in_a_suffix_takes_files_of_that_suffix(house):
    assert names(house, discover([str(house / "raw" / "*.dat")])) == ["raw/scan.dat"]
    assert "notes.txt" not in names(house, discover([str(house / "*")]))


def test_brackets_in_an_existing_name_are_not_a_pattern(house):
    assert names(house, discover([house / "[odd] name"])) == ["[odd] name/y.tiff"]


def test_files_keep_the_order_they_were_named_in_and_come_once(house):
    files = discover([house / "sound" / "2.jpeg", house / "b.tif", house / "sound", house])
    assert names(house, files)[:3] == ["sound/2.jpeg", "b.tif", "sound/1.jpg"]
    assert len(files) == len(set(files)) == 6


@pytest.mark.parametrize("missing", ["absent.tif", "absent/", "*.jpg", "sou?d/*.tif", "raw", "**/*.gif"])
def test_what_matches_nothing_is_named(house, missing):
    with pytest.raises(MicrographError) as caught:
        discover([house / "b.tif", str(house / missing)])
    assert str(house / missing).rstrip("/") in str(caught.value)


def test_nothing_named_is_nothing_found():
    assert discover([]) == []


def test_links_that_loop_are_followed_once(house):
    try:
        (house / "sound" / "loop").symlink_to(house, target_is_directory=True)
        (house / "sound" / "self").symlink_to(house / "sound", target_is_directory=True)
        (house / "broken.tif").symlink_to(house / "absent.tif")
        (house / "linked.tif").symlink_to(house / "b.tif")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    files = discover([house])
    assert len({os.path.realpath(file) for file in files}) == len(files) == 7  # the broken one raises when read


@pytest.fixture
def lots(tmp_path):
    """Three images, and links to folders above and beside them that multiply the paths to each image."""
    for name in ("lot-1/a.tif", "lot-2/b.tif", "lot-2/deep/c.tif", "lot-2/.old/d.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    try:
        for index in range(4):
            (tmp_path / "lot-1" / f"again-{index}").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "lot-1" / "self").symlink_to("self")
        (tmp_path / "above").symlink_to(tmp_path / "lot-2" / "deep", target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", ["above/c.tif", "lot-1/a.tif", "lot-2/b.tif"]),
        ("**/*.tif", ["above/c.tif", "lot-1/a.tif", "lot-2/b.tif"]),
        ("**/**/?.tif", ["above/c.tif", "lot-1/a.tif", "lot-2/b.tif"]),
        ("**/deep/*.tif", ["lot-2/deep/c.tif"]),
        ("lot-[2]/**", ["lot-2/b.tif", "lot-2/deep/c.tif"]),
        ("lot-1/**/lot-2/*", ["lot-1/again-0/lot-2/b.tif"]),
        ("**/.old/*", ["lot-2/.old/d.tif"]),
    ],
)
def test_patterns_that_cross_folders_enter_each_once(lots, pattern, expected):
    found = sorted(match(str(lots / pattern)))
    assert names(lots, found) == expected
    if pattern == "**":
        assert found == sorted(search(lots))


def test_a_pattern_that_crosses_folders_starts_here_too(lots, monkeypatch):
    monkeypatch.chdir(lots)
    assert [str(path) for path in sorted(match("**/[ab].tif"))] == [str(Path("lot-1/a.tif")), str(Path("lot-2/b.tif"))]


@pytest.mark.parametrize("named", ["", "*", "*.tif", "**/*"])
@pytest.mark.parametrize("target", ["absent.tif", "broken.tif"])
def test_a_broken_link_is_not_passed_over_in_silence(tmp_path, named, target):
    (tmp_path / "a.tif").write_bytes(b"x")
    try:
        (tmp_path / "broken.tif").symlink_to(tmp_path / target)
        (tmp_path / "broken.txt").symlink_to(tmp_path / "absent.txt")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    assert names(tmp_path, discover([str(tmp_path / named)])) == ["a.tif", "broken.tif"]
    with pytest.raises(MicrographError, match=r"broken\.tif: "):
        load_microstructure_data(tmp_path / "broken.tif")


def test_a_link_without_a_target_is_called_one(tmp_path):
    try:
        (tmp_path / "broken.tif").symlink_to(tmp_path / "absent.tif")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    with pytest.raises(MicrographError, match=r"broken\.tif: this is a link whose target does not exist"):
        load_microstructure_data(tmp_path / "broken.tif")


@pytest.mark.parametrize("pattern", ["", "**/*.png"])
def test_folders_in_each_other_without_end_are_refused(tmp_path, pattern):
    """Those that one file system can hold took minutes."""
    (tmp_path / "/".join("a" * 300)).mkdir(parents=True)
    with pytest.raises(MicrographError, match="lie in each other more than 256 deep; move the images up"):
        discover(tmp_path / pattern)


def test_a_folder_outside_is_reached_through_a_link(house, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "far.tif").write_bytes(b"x")
    try:
        (house / "more").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    assert "more/far.tif" in names(house, discover([house]))


@pytest.mark.parametrize("path", ["a\0b.tif", "x" * 5000])
def test_impossible_paths_are_refused(path):
    with pytest.raises(MicrographError):
        discover([path])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(MicrographError, match="pipe"):
        discover([Path(tmp_path / "pipe.tif")])
    for where in (tmp_path, tmp_path / "*"):  # found, and refused when it is read, as a broken link is
        assert discover([where]) == [tmp_path / "pipe.tif"]
