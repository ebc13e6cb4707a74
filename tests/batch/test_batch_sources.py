from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
import threading
from collections import Counter

import fsspec
import pytest
from fsspec.registry import _registry
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.batch import items as items_module
from fusion_diff.batch.csv_lists import paths_in_table
from fusion_diff.batch.items import Item, local_file
from fusion_diff.batch.sources import check_source, list_source
from fusion_diff.errors import BatchError, DependencyError, FetchError, MicrographError


def listed(source):
    return sorted(item.path for item in list_source(str(source)))


def test_a_folder_a_pattern_and_a_file_address_name_the_same_micrographs(folder):
    everything = listed(folder)
    assert everything == sorted(str(path) for path in folder.rglob("*.tif"))
    assert listed(folder / "**") == everything
    assert listed(folder.as_uri()) == everything
    assert listed(folder / "[01].tif") == everything[:2]
    assert listed(folder / "0.tif") == everything[:1]


@pytest.fixture
def others(folder):
    """Image files of unsupported kinds, locally and in a store; returns their folders."""
    store = fsspec.filesystem("memory")
    for name in ("a.gif", "deeper/b.webp", "deeper/c.WEBP", ".hidden.gif", "notes.txt"):
        (folder / name).write_bytes(b"")
        store.pipe_file(f"/others/{name}", b"")
    store.pipe_file("/others/d.tif", b"")
    yield folder
    store.rm("/others", recursive=True)


@pytest.mark.parametrize("place", ["{}", "{}/**", "memory://others", "memory://others/**"])
def test_pictures_of_other_kinds_are_counted(others, place):
    unread = Counter()
    assert list(list_source(place.format(others), None, unread))
    assert unread == {".gif": 1, ".webp": 2}


@pytest.fixture
def lots(tmp_path):
    """Two folders and an image with similar names, and hidden ones, locally and in a store; gives the local folder."""
    store = fsspec.filesystem("memory")
    for name in ("lot-1/a.tif", "lot-2/deeper/b.tif", "lot-2/.c.tif", "lot-2/.old/d.tif", "lot-x.tif", ".bin/e.tif"):
        file = tmp_path / "lots" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        store.pipe_file(f"/lots/{name}", b"")
    yield tmp_path / "lots"
    store.rm("/lots", recursive=True)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("lot-*", ["lot-1/a.tif", "lot-2/deeper/b.tif", "lot-x.tif"]),
        ("*", ["lot-1/a.tif", "lot-2/deeper/b.tif", "lot-x.tif"]),
        ("**", ["lot-1/a.tif", "lot-2/deeper/b.tif", "lot-x.tif"]),
        ("**/*.tif", ["lot-1/a.tif", "lot-2/deeper/b.tif", "lot-x.tif"]),
        ("*/.old/*.tif", ["lot-2/.old/d.tif"]),
        (".b*/*.tif", [".bin/e.tif"]),
        ("lot-[2]", ["lot-2/deeper/b.tif"]),
    ],
)
def test_a_pattern_names_the_same_here_and_in_a_store(lots, pattern, names):
    assert listed(lots / pattern) == [str(lots / name) for name in names]
    assert listed(f"memory://lots/{pattern}") == [f"memory:///lots/{name}" for name in names]


def test_a_folder_of_other_kinds_alone_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=r"skipped 1 file of unsupported formats \(1 .gif\)"),
        pytest.raises(BatchError, match="contains no images"),
    ):
        check_source(str(tmp_path))


def test_paths_are_absolute_so_that_a_run_from_elsewhere_knows_them(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert listed("in") == listed(folder)
    assert listed("in/../in/0.tif") == [str(folder / "0.tif")]


def test_a_table_names_files_from_its_own_folder_and_addresses(folder):
    table = folder.parent / "list.csv"
    table.write_text(
        f"Class;Path\na;in/0.tif\n\nb;/elsewhere/x.png\nc;memory://bucket/y.tif\nd;{(folder / '1.tif').as_uri()}\n",
        encoding="utf-8-sig",
    )
    paths = [item.path for item in list_source(str(table))]
    assert paths == [str(folder / "0.tif"), "/elsewhere/x.png", "memory:///bucket/y.tif", str(folder / "1.tif")]


def test_a_list_of_references_is_a_table_too_and_path_counts_before_file(folder):
    (folder / "list.csv").write_text("label,file\nsound,0.tif\n")
    (folder / "both.csv").write_text("file,path\nx.tif,1.tif\n")
    (folder / "excel.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nfile;label\r\n0.tif;a,b\r\n")
    assert listed(folder / "list.csv") == listed(folder / "excel.csv") == [str(folder / "0.tif")]
    assert listed(folder / "both.csv") == [str(folder / "1.tif")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name\na.tif\n", "exactly one column path or file"),
        (b"file,file\na,b\n", "exactly one column path or file"),
        (b",filename\n0,a.tif\n", "exactly one column path or file"),
        (b"", "exactly one column path"),
        (b"path,path\na,b\n", "exactly one column path"),
        (b"path,class\na.tif,x\nb.tif\n", "line 3: it has 1 fields under a header of 2"),
        (b"path,class\n,x\n", "line 2: it has 2 fields"),
        (b"\n\npath,class\na.tif,x\n\n,x\n", "line 6: it has 2 fields"),
        (b'\npath\n"a" b.tif\n', "line 3: it is not valid CSV"),
        (b"sep=;\n\npath;class\na.tif;x\nb.tif\n", "line 5: it has 1 fields under a header of 2"),
        (b"path\n\xff.tif\n", "line 2: it is not UTF-8"),
        (b"path\na\0.tif\n", "line 2: it contains a zero byte"),
        (b"path\n" + b"a" * 70_000, "line 2: it is longer than 65536 bytes"),
        (b'path\n"a" b.tif\n', "line 2: it is not valid CSV"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_its_line(tmp_path, content, says):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(BatchError, match=r"list\.csv") as caught:
        listed(tmp_path / "list.csv")
    assert says in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("table") / "list.csv"
    file.write_bytes(b"path,b\n" + content)
    said = ""
    try:
        assert all(isinstance(each, str) for each in listed(file))
    except BatchError as error:
        said = str(error)
    assert said.isprintable()


def test_a_source_is_listed_while_it_is_read(tmp_path):
    """An endless list works, because it is read line by line."""
    os.mkfifo(tmp_path / "list.csv")

    def write():
        with contextlib.suppress(BrokenPipeError), (tmp_path / "list.csv").open("w") as stream:
            stream.write("path\n")
            for index in itertools.count():
                stream.write(f"{index}.tif\n")

    writer = threading.Thread(target=write)
    writer.start()
    with (tmp_path / "list.csv").open("rb") as stream:
        paths = list(itertools.islice(paths_in_table(stream, "list.csv"), 1000))
    writer.join()
    assert paths[-1] == "999.tif"


def test_a_store_is_searched_and_its_files_are_read(folder, store):
    paths = listed("failing://line")
    assert [path.removeprefix("failing:///line/") for path in paths] == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.tif")
    )
    assert listed("failing://line/[01].tif") == [paths[0], paths[1]]
    assert listed("failing://line/deeper/spot.tif") == [paths[-1]]
    with local_file(Item(paths[0])) as file:
        assert file.read_bytes() == (folder / "0.tif").read_bytes()
    assert not file.exists()


def test_a_table_in_a_store_names_files_beside_it(store):
    fsspec.filesystem("failing").pipe("/line/list.csv", b"path\ndeeper/spot.tif\n0.tif\n")
    assert listed("failing://line/list.csv") == ["failing:///line/0.tif", "failing:///line/deeper/spot.tif"]


@pytest.mark.parametrize("name", ["s3", "gopher", "memory::file"])
def test_a_store_that_cannot_be_had_is_named_with_the_cure(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # in case another test registered it
    with pytest.raises((BatchError, DependencyError)) as caught:
        check_source(f"{name}://bucket/in")
    assert f"{name}://bucket/in" in str(caught.value)
    if name == "s3":
        assert "for S3, run pip install s3fs (part of the extra 's3')" in str(caught.value)


def test_a_batch_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "fsspec.core", raising=False)
    with pytest.raises(DependencyError, match=r"needs fsspec, .* pip install fsspec \(part of the extra 'batch'\)"):
        check_source("memory://bucket")


@pytest.mark.parametrize(
    ("source", "says"),
    [("nowhere", "no such file or folder"), ("empty", "contains no images"), ("*.bmp", "contains no images")],
)
def test_a_source_without_micrographs_is_refused(tmp_path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BatchError, match=says):
        check_source(source)


def test_an_empty_place_in_a_store_is_refused():
    with pytest.raises(BatchError, match=r"does not exist in the store|contains no images"):
        check_source("memory://nothing-there")


def test_a_store_that_stops_answering_is_told_from_a_file_that_is_not_there(store):
    paths = listed("failing://line")
    with (
        pytest.raises(FetchError, match=r"gone\.tif: cannot be read"),
        local_file(Item("failing://line/gone.tif")),
    ):
        pass
    store.answers = 0
    with pytest.raises(BatchError, match="cannot be reached") as caught, local_file(Item(paths[0])):
        pass
    assert "connection refused" in str(caught.value)
    with pytest.raises(BatchError, match="cannot be reached"):
        listed("failing://line")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_a_limit_of_this_machine_is_not_taken_for_a_fault_of_the_file(store, monkeypatch, code):
    def limited(self, path, *args, **kwargs):
        raise RuntimeError("the client failed") from OSError(code, os.strerror(code))

    monkeypatch.setattr(store, "_open", limited)
    with (
        pytest.raises(FetchError, match=rf"0\.tif: this machine cannot fetch it \({os.strerror(code)}\); free memory"),
        local_file(Item("failing://line/0.tif")),
    ):
        pass


def test_a_store_that_stumbles_is_asked_again(store, folder, monkeypatch):
    opened = []
    real = store._open

    def stumbling(self, path, *args, **kwargs):
        opened.append(path)
        if len(opened) < 3:
            raise TimeoutError
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(store, "_open", stumbling)
    with local_file(Item("failing://line/0.tif")) as file:
        assert file.read_bytes() == (folder / "0.tif").read_bytes()
    assert len(opened) == 3


def test_a_file_too_large_to_fetch_is_refused(store, monkeypatch):
    monkeypatch.setattr(items_module, "MAX_FETCH_BYTES", 100)
    with pytest.raises(MicrographError, match="larger than 100 bytes"), local_file(Item("failing://line/0.tif")):
        pass


@given(st.lists(st.text(), unique=True))
def test_two_paths_never_share_a_key(paths):
    assert len({Item(path).key for path in paths}) == len(paths)
    assert all(len(Item(path).key) == 16 for path in paths)


@pytest.mark.parametrize("source", ["~/m/*.tif", "~/m", "~/m/a.tif", "~/list.csv"])
def test_a_source_may_begin_in_the_home_folder(tmp_path, monkeypatch, save_micrograph, source):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "m").mkdir()
    save_micrograph(tmp_path / "m" / "a.tif", 0.8)
    (tmp_path / "list.csv").write_text("path\nm/a.tif\n")
    assert listed(source) == [str(tmp_path / "m" / "a.tif")]


def test_a_disk_that_is_full_only_as_the_file_is_closed_is_no_fault_of_the_store(monkeypatch, room_for):
    """So few bytes are written at the close."""
    fsspec.filesystem("memory").pipe_file("/closing/a.tif", b"few bytes")
    monkeypatch.setattr(items_module.time, "sleep", lambda seconds: pytest.fail("it is fetched again"))
    with room_for(0), pytest.raises(FetchError) as caught, local_file(Item("memory://closing/a.tif")):
        pass
    assert "a micrograph cannot be stored there" in str(caught.value)
