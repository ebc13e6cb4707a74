"""Reading references from well-formed and malformed CSV files."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_diff.errors import ReferenceSetError
from fusion_diff.references import ReferenceSet
from fusion_diff.references.tables import read_table

Writer = Callable[..., Path]

HEADER = "file,label\n"
ROWS = "sound/p1_a.png,sound\ncrack/p1_c.png,crack\n"


def read(folder: Path, content: str | bytes) -> ReferenceSet:
    table = folder / "refs.csv"
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    return ReferenceSet.from_csv(table, authentic="sound")


def test_the_order_is_that_of_the_lines(folder: Path) -> None:
    references = read(folder, HEADER + "crack/p3_a.png,crack\n" + ROWS)
    assert [reference.name for reference in references] == ["crack/p3_a.png", "sound/p1_a.png", "crack/p1_c.png"]
    assert references.classes == ("sound", "crack")
    assert len(references.specimens) == 3


def test_groups_marks_and_pixel_sizes_are_read_where_given(folder: Path, draw_mark: Writer) -> None:
    draw_mark("refs/drawn.png")
    references = read(
        folder,
        "label,pixel_size_um,mark,group,file,comment\n"
        "sound,,,,sound/p1_a.png,\n"
        "crack, 0.5 ,drawn.png,p1,crack/p1_c.png,long\n",
    )
    assert [reference.group for reference in references] == ["sound/p1_a.png", "p1"]
    assert [reference.micrograph.pixel_size_um for reference in references] == [None, 0.5]
    assert references[0].mark is None
    assert references[1].mark is not None
    assert references[1].mark.sum() == 24


def test_a_decimal_comma_is_read_where_semicolons_separate_and_explained_elsewhere(folder: Path) -> None:
    rows = "file;label;pixel_size_um\nsound/p1_a.png;sound;0,24\ncrack/p1_c.png;crack;,5\nsound/p1_b.png;sound;0.24\n"
    assert [each.micrograph.pixel_size_um for each in read(folder, rows)] == [0.24, 0.5, 0.24]
    with pytest.raises(ReferenceSetError, match=r"not '0,24'; write it with a decimal point, as 0\.24"):
        read(folder, 'file,label,pixel_size_um\nsound/p1_a.png,sound,"0,24"\n')
    for size in ("1,234,5", "0,", "1.234,5", ","):
        with pytest.raises(ReferenceSetError, match="must be a positive number of micrometres"):
            read(folder, f"file;label;pixel_size_um\nsound/p1_a.png;sound;{size}\n")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + (HEADER + ROWS).encode(),
        (HEADER + ROWS).replace("\n", "\r\n").encode(),
        (HEADER + ROWS).replace(",", ";").encode(),
        (HEADER + ROWS).replace(",", "\t").encode(),
        b"\n\n" + (HEADER + "\n" + ROWS + "\n,\n").encode(),
        (HEADER + ROWS).replace("/", "\\").encode(),
        (HEADER + ROWS).replace("file,label", "File, Label").encode(),
        b'file,label\n"sound/p1_a.png","sound"\n"crack/p1_c.png","crack"\n',
    ],
)
def test_what_spreadsheets_write_is_read_alike(folder: Path, content: bytes) -> None:
    plain = read(folder, HEADER + ROWS)
    assert [(reference.name, reference.label) for reference in read(folder, content)] == [
        (reference.name, reference.label) for reference in plain
    ]


@pytest.mark.skipif(os.sep != "/", reason="elsewhere these names cannot be")
@pytest.mark.parametrize("name", ["p\\9.png", " p9.png", "p9.png ", "crack\\p9.png"])
def test_a_name_is_first_taken_as_it_is_written(folder: Path, draw: Writer, draw_mark: Writer, name: str) -> None:
    draw("refs/plain.png").rename(folder / name)
    draw_mark("refs/plain.png").rename(folder / f"mark {name}")
    references = read(folder, f"file,label,mark\nsound/p1_a.png,sound,\n{name},crack,mark {name}\n")
    assert [reference.name for reference in references] == ["sound/p1_a.png", name]
    assert references[1].mark is not None


def test_absolute_paths_and_paths_above_the_csv_file_are_the_users_choice(folder: Path) -> None:
    table = folder / "lists"
    table.mkdir()
    references = read(table, f"file,label\n../sound/p1_a.png,sound\n{folder / 'crack' / 'p1_c.png'},crack\n")
    assert references.counts == {"sound": 1, "crack": 1}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "lists no files"),
        (HEADER, "lists no files"),
        ("file,class\n" + ROWS, r"line 1: the header lacks 'label'; it has file, class"),
        ("sound/p1_a.png,sound\n", r"line 1: the header lacks 'file' and 'label'"),
        ("file,label,groups\na,b,c\n", r"unknown column 'groups' \(did you mean 'group'\?\)"),
        ("file,label,Specimen\na,b,c\n", r"unknown column 'specimen' \(did you mean 'group'\?\)"),
        ("file,label,label\na,b,c\n", "'label' occurs twice"),
        (HEADER + "sound/p1_a.png,sound,p1\n", "line 2: 3 fields, but the header has 2"),
        (HEADER + ROWS + "sound/p1_b.png\n", "line 4: 1 fields"),
        (HEADER + "sound/p1_a.png,\n", "line 2: the column 'label' is empty"),
        (HEADER + "sound/absent.png,sound\n", r"line 2: the file .*absent.png does not exist"),
        (HEADER + "sound,sound\n", "line 2: the file .*sound does not exist"),
        (HEADER + "a\x00b.png,sound\n", "line 2: a zero byte"),
        ("file,label,mark\nsound/p1_a.png,sound,absent.png\n", r"line 2: the mark .*absent.png does not exist"),
        (HEADER + '"sound/p1_a.png,sound\n', "line 2: not a readable CSV line"),
        (HEADER + "x" * 200_000 + ",sound\n", r"line 2: .*field larger"),
        (HEADER + "x" * 5_000 + ",sound\n", "line 2"),
        (HEADER + "sound/p1_a.png,gut\n", "has no class 'sound'; set authentic to one of its classes: gut"),
        ("file,label\nsound/größe.png,sound\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ((HEADER + ROWS).encode("utf-16"), "line 1: not UTF-8 text"),
        *[
            (f"file,label,pixel_size_um\nsound/p1_a.png,sound,{size}\n", "line 2: pixel_size_um must be a positive")
            for size in ("0", "-1", "nan", "inf", "1e999", "small", '"0,5"')
        ],
    ],
)
def test_a_malformed_file_is_named_with_the_line(folder: Path, content: str | bytes, complaint: str) -> None:
    with pytest.raises(ReferenceSetError, match=complaint) as caught:
        read(folder, content)
    assert "refs.csv" in str(caught.value)


def test_a_missing_or_enormous_csv_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReferenceSetError, match=r"the CSV file .*absent.csv does not exist"):
        ReferenceSet.from_csv(folder / "absent.csv", authentic="sound")
    monkeypatch.setattr("fusion_diff.references.tables._MAX_BYTES", 2**20)
    with pytest.raises(ReferenceSetError, match="larger than 1 MiB"):
        read(folder, b"x" * (2**20 + 1))


def test_what_is_no_csv_file_is_told_so(folder: Path) -> None:
    with pytest.raises(ReferenceSetError, match=r"refs is a folder, not a CSV file: .*from_folder"):
        ReferenceSet.from_csv(folder, authentic="sound")
    for path in (io.StringIO("file,label\n"), None, ["refs.csv"]):
        with pytest.raises(ReferenceSetError, match="expected the path of a CSV file of references, got"):
            ReferenceSet.from_csv(path, authentic="sound")  # type: ignore[arg-type]


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    (folder / "list.csv").write_text(HEADER + ROWS)
    assert len(ReferenceSet.from_csv("~/list.csv", authentic="sound")) == 2


def test_a_table_of_endless_columns_or_rows_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = "file,label," + ",".join(f"column{index}" for index in range(10_000)) + "\n"
    with pytest.raises(ReferenceSetError, match="line 1: the header has 10,002 columns, more than 100"):
        read(folder, wide + ROWS)
    monkeypatch.setattr("fusion_diff.references.tables._MAX_ROWS", 50)
    with pytest.raises(ReferenceSetError, match="line 52: more than 50 files"):
        read(folder, HEADER + "sound/p1_a.png,sound\n" * 51)


def test_a_stranger_s_header_comes_into_the_message_short_and_printable(folder: Path) -> None:
    with pytest.raises(ReferenceSetError, match="the header lacks 'file'") as caught:
        read(folder, "\x1b[2J" + "x" * 50_000 + ",label\n" + ROWS)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_file_listed_under_two_labels_is_refused(folder: Path) -> None:
    with pytest.raises(ReferenceSetError, match="same image with different labels"):
        read(folder, HEADER + "sound/p1_a.png,sound\n./sound/p1_a.png,crack\n")


def test_all_unreadable_files_of_a_list_are_found_in_one_go(folder: Path) -> None:
    for name in ("bad_1.png", "bad_2.png"):
        (folder / name).write_bytes(b"junk")
    with pytest.raises(ReferenceSetError, match=r"(?s)2 of 4 references.*bad_1.*bad_2"):
        read(folder, HEADER + ROWS + "bad_1.png,sound\nbad_2.png,crack\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda tail: HEADER.encode() + tail),
        st.text(alphabet='ab,;\t"\n\r\\', max_size=80).map(lambda tail: (HEADER + tail).encode()),
    )
)
def test_whatever_the_bytes_a_table_is_read_or_refused_with_a_typed_error(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "any.csv"
    table.write_bytes(content)
    complaint = ""
    rows = []
    try:
        rows = read_table(table, required=("file", "label"), optional=("group",))
    except ReferenceSetError as error:
        complaint = str(error)
    assert bool(rows) != ("any.csv" in complaint)
    assert all(row.cells["file"] and row.cells["label"] and "any.csv" in row.where for row in rows)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_of_another_unicode_form_is_found_with_its_mark(
    folder: Path, draw: Writer, draw_mark: Writer, form: str
) -> None:
    here, there = "NFC", "NFD"
    if form == "NFC":
        here, there = there, here
    draw("plain.png").rename(folder / unicodedata.normalize(here, "größe.png"))
    draw_mark("mark.png").rename(folder / unicodedata.normalize(here, "fläche.png"))
    row = unicodedata.normalize(there, "größe.png,crack,fläche.png\n")
    references = read(folder, "file,label,mark\nsound/p1_a.png,sound,\n" + row)
    assert references[1].mark is not None


def test_a_file_on_two_lines_is_used_once_and_told_with_both(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"refs\.csv, lines 2 and 4: the same file, sound/p1_a\.png; it is used once"):
        assert read(folder, HEADER + ROWS + "sound/p1_a.png,sound\n").counts == {"sound": 1, "crack": 1}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sound/p1_a.png,crack,,", "lines 3 and 4: .* with the labels 'sound' and 'crack'"),
        ("sound/p1_a.png,sound,g,", "lines 3 and 4: .* with the groups 'sound/p1_a.png' and 'g'"),
        ("sound/p1_a.png,sound,,0.5", "lines 3 and 4: .* with the marks or pixel sizes that differ"),
    ],
)
def test_two_lines_that_say_different_things_of_a_file_are_refused(folder: Path, lines: str, said: str) -> None:
    with pytest.raises(ReferenceSetError, match=f"{said}; keep one of the lines"):
        read(folder, f"file,label,group,pixel_size_um\ncrack/p1_c.png,crack,,\nsound/p1_a.png,sound,,\n{lines}\n")


@pytest.mark.parametrize("line", ["sep=;\n", "SEP=;\r\n"])
def test_the_first_line_of_excel_is_skipped_and_counted(folder: Path, line: str) -> None:
    rows = "file;label\nsound/p1_a.png;sound\ncrack/p1_c.png;crack\n"
    assert read(folder, line + rows).counts == {"sound": 1, "crack": 1}
    with pytest.raises(ReferenceSetError, match=r"line 5: the file .*absent"):
        read(folder, line + rows + "absent.png;crack\n")
