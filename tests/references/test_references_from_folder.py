"""Reading references from a folder per class, with their groups and marks."""

from __future__ import annotations

import io
import os
import re
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import source
from fusion_diff.references import ReferenceSet
from fusion_diff.references.marks import fit_mark

Writer = Callable[..., Path]


def read(folder: Path, **options: object) -> ReferenceSet:
    return ReferenceSet.from_folder(folder, authentic="sound", **options)  # type: ignore[arg-type]


def test_pictures_of_kinds_that_are_not_read_are_told_of(folder: Path) -> None:
    for name in ("sound/a.gif", "sound/b.GIF", "crack/c.webp", "crack/.d.gif", "crack/notes.txt"):
        (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"skipped 3 files of unsupported formats \(2 .gif, 1 .webp\)"):
        assert len(read(folder)) == 6


def test_a_folder_per_class_is_read_in_a_fixed_order(folder: Path) -> None:
    references = read(folder)
    assert references.classes == ("sound", "blowhole", "crack")
    assert references.counts == {"sound": 3, "blowhole": 1, "crack": 2}
    assert [reference.name for reference in references] == [
        "sound/p1_a.png", "sound/p1_b.png", "sound/p2_a.png", "blowhole/p4_a.png", "crack/p1_c.png", "crack/p3_a.png",
    ]  # fmt: skip
    assert all(reference.mark is None for reference in references)
    assert references.sha256 == read(folder).sha256
    stored = np.asarray(Image.open(folder / "crack" / "p1_c.png"), dtype=np.float32)
    np.testing.assert_array_equal(references[4].micrograph.pixels, stored)


def test_moving_the_folder_does_not_change_the_digest(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere").sha256 == read(folder).sha256


def test_hidden_files_other_files_and_sub_folders_are_passed_over(folder: Path, draw: Writer) -> None:
    before = read(folder).sha256
    (folder / "sound" / "notes.txt").write_text("not an image")
    (folder / "sound" / "._p1_a.png").write_bytes(b"resource fork")
    (folder / "sound" / "folder.png").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / ".cache").mkdir()
    draw("refs/crack/older/p9.png")
    with pytest.warns(UserWarning, match="skipped 1 image in subfolders"):
        assert read(folder).sha256 == before


def test_the_pixel_size_applies_to_every_image(folder: Path) -> None:
    assert {reference.micrograph.pixel_size_um for reference in read(folder, pixel_size_um=0.25)} == {0.25}


def test_progress_is_told_after_each_file(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    read(folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]


def test_without_groups_every_file_is_its_own_group(folder: Path) -> None:
    assert len(read(folder).specimens) == 6


@pytest.mark.parametrize("groups", [r"^([^_]+)_", re.compile(r"^(?P<specimen>p\d)"), lambda name: name.split("_")[0]])
def test_groups_come_from_the_file_name_and_span_classes(folder: Path, groups: object) -> None:
    references = read(folder, groups=groups)
    assert references.specimens == ("p1", "p2", "p3", "p4")
    assert {reference.label for reference in references if reference.group == "p1"} == {"sound", "crack"}


def test_groups_come_from_a_csv_file_beside_or_inside_the_folder(folder: Path, tmp_path: Path) -> None:
    lines = [f"{name.parent.name}/{name.name},{name.parent.name},{name.name[:2]}" for name in folder.glob("*/*.png")]
    table = tmp_path / "groups.csv"
    table.write_text("file,class,group\n" + "\n".join(lines) + "\nsound/gone.png,sound,p9\n", encoding="utf-8")
    expected = read(folder, groups=r"^([^_]+)_").sha256
    assert read(folder, groups=table).sha256 == expected
    assert read(folder, groups=str(table)).sha256 == expected
    shutil.copy(table, folder / "groups.csv")
    assert read(folder).sha256 == expected
    (folder / "groups.csv").write_text(table.read_text().replace("/", "\\"))
    assert read(folder).sha256 == expected
    (folder / "groups.csv").write_text(table.read_text().replace("\n", "\n./").removesuffix("./"))
    assert read(folder).sha256 == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,group\nsound/p1_a.png,p1\n", r"no group for 5 of 6 files"),
        ("file,group\na.png,p1\na.png,p2\n", r"line 3: a.png is in group 'p2' here, but in 'p1'"),
        (
            "file,class,group\nsound/p1_a.png,crack,p1\n",
            r"line 2: the class of sound/p1_a.png is 'crack', but its folder is 'sound'",
        ),
        ("file,specimen\nsound/p1_a.png,p1\n", r"line 1: the header lacks 'group'"),
        ("file,group\nsound/p1_a.png,\n", r"line 2: the column 'group' is empty"),
    ],
)
def test_a_wrong_groups_file_is_named_with_the_line(folder: Path, text: str, complaint: str) -> None:
    (folder / "groups.csv").write_text(text)
    with pytest.raises(ReferenceSetError, match=complaint) as caught:
        read(folder)
    assert str(folder / "groups.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ("(", r"not a valid regular expression \(missing .*; write one such as r'"),
        ("p", "exactly one"),
        ("(p)(1)", "exactly one"),
        (r"^(p1)_", r"no specimen in 3 of 6"),
        (r"^(x)?p", r"no specimen in 6 of 6"),
        (lambda name: None, "must return a non-empty string"),
        (lambda name: " ", "must return a non-empty string"),
        (3, "not int"),
        (Path("absent.csv"), "the CSV file absent.csv does not exist"),
    ],
)
def test_groups_that_cannot_be_found_are_explained(folder: Path, groups: object, complaint: str) -> None:
    with pytest.raises(ReferenceSetError, match=complaint):
        read(folder, groups=groups)


@pytest.mark.skipif(os.sep != "/", reason="elsewhere this name cannot be")
def test_a_name_in_a_groups_file_is_first_taken_as_it_is_written(folder: Path, draw: Writer) -> None:
    names = ["sound/p1_a.png", "sound/p1_b.png", "sound/p2_a.png", "crack/p1_c.png", "crack/p3_a.png"]
    draw("refs/blowhole/p4_a.png").rename(folder / "blowhole" / " p4\\a.png")
    (folder / "groups.csv").write_text(
        "file,group\n./blowhole/ p4\\a.png,4\n" + "".join(f" {name.replace('/', chr(92))},1\n" for name in names)
    )
    assert {reference.name: reference.group for reference in read(folder)}["blowhole/ p4\\a.png"] == "4"


@pytest.mark.parametrize("level", [1, 255])
def test_marks_are_found_in_the_masks_folder(folder: Path, draw_mark: Writer, level: int) -> None:
    draw_mark("refs/masks/crack/p1_c.png", level=level)
    references = read(folder)
    assert references.classes == ("sound", "blowhole", "crack")
    marks = {reference.name: reference.mark for reference in references if reference.mark is not None}
    assert list(marks) == ["crack/p1_c.png"]
    expected = np.zeros((40, 48), dtype=bool)
    expected[2:6, 3:9] = True
    np.testing.assert_array_equal(marks["crack/p1_c.png"], expected)


def test_marks_may_lie_elsewhere_and_in_other_lossless_formats(folder: Path, draw_mark: Writer, tmp_path: Path) -> None:
    draw_mark("drawn/crack/p1_c.tif")
    draw_mark("drawn/blowhole/p4_a.BMP")
    Image.fromarray(np.dstack([np.asarray(Image.open(draw_mark("colour.png")))] * 3)).save(
        tmp_path / "drawn" / "crack" / "p3_a.png"
    )
    references = read(folder, marks=tmp_path / "drawn")
    assert [reference.name for reference in references if reference.mark is not None] == [
        "blowhole/p4_a.png", "crack/p1_c.png", "crack/p3_a.png",
    ]  # fmt: skip
    assert {int(r.mark.sum()) for r in references if r.mark is not None} == {24}


def test_a_mark_of_another_size_is_refused_with_both_files_and_sizes(folder: Path, draw_mark: Writer) -> None:
    mark = draw_mark("refs/masks/crack/p1_c.png", size=(80, 96))
    with pytest.raises(ReferenceSetError) as caught:
        read(folder)
    for word in (str(mark), "80x96", str(folder / "crack" / "p1_c.png"), "40x48"):
        assert word in str(caught.value)


def test_a_mark_far_larger_than_its_micrograph_is_refused_undecoded(folder: Path, draw_mark: Writer) -> None:
    mark = draw_mark("refs/masks/crack/p1_c.png", size=(4200, 4000), level=1)
    mark.write_bytes(mark.read_bytes()[:200])  # the header is whole, the pixels are not
    with pytest.raises(ReferenceSetError) as caught:
        read(folder)
    assert str(caught.value) == (
        f"the mark {mark} is 4200x4000 pixels (height x width), but {folder / 'crack' / 'p1_c.png'} is 40x48; "
        "draw the mark on the micrograph itself"
    )


def test_a_mark_too_small_to_read_is_named_with_its_reference(folder: Path, draw_mark: Writer) -> None:
    mark = draw_mark("refs/masks/crack/p1_c.png", size=(28, 28))
    with pytest.raises(ReferenceSetError, match="28x28") as caught:
        read(folder)
    assert str(mark) in str(caught.value)
    assert str(folder / "crack" / "p1_c.png") in str(caught.value)


def test_a_mark_on_a_whole_image_loses_the_data_bar_with_its_micrograph(folder: Path, draw_mark: Writer) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(60, 200, (480, 640), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 448, 640, 480), fill=0)
    pen.text((20, 454), "HV 15.00 kV   mag 5000 x   WD 9.8 mm   20 um", fill=255, font_size=18)
    image.save(folder / "crack" / "barred.png")
    draw_mark("refs/masks/crack/barred.png", size=(480, 640), rows=slice(440, 480), columns=slice(0, 10))
    (barred,) = (reference for reference in read(folder) if reference.name == "crack/barred.png")
    assert barred.micrograph.data_bar_px == 32
    assert barred.mark is not None
    assert barred.mark.shape == (448, 640)
    assert barred.mark.sum() == 8 * 10


def test_a_mark_with_the_data_bar_is_cropped_as_its_micrograph_was() -> None:
    cropped = SimpleNamespace(height=20, width=30, data_bar_px=4)
    drawn = np.zeros((24, 30), dtype=np.uint8)
    drawn[19:] = 1
    for values in (drawn, drawn[:20]):
        mark = fit_mark(values, cropped, "the mark", "it")  # type: ignore[arg-type]
        assert mark.shape == (20, 30)
        assert mark.sum() == 30
    with pytest.raises(ReferenceSetError, match=r"22x30.*20x30 \(24x30 with its data bar\)"):
        fit_mark(drawn[:22], cropped, "the mark", "it")  # type: ignore[arg-type]


def test_a_flaw_marked_on_an_authentic_reference_is_refused_but_an_empty_mark_is_not(
    folder: Path, draw_mark: Writer
) -> None:
    mark = draw_mark("refs/masks/sound/p1_a.png", level=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(folder)[0].mark is None
    draw_mark("refs/masks/sound/p1_a.png")
    with pytest.raises(ReferenceSetError, match=r"sound/p1_a.png, which is authentic") as caught:
        read(folder)
    assert str(mark) in str(caught.value)


def test_an_empty_mark_on_a_flaw_is_taken_as_unmarked_with_a_warning(folder: Path, draw_mark: Writer) -> None:
    draw_mark("refs/masks/crack/p1_c.png", level=0)
    with pytest.warns(UserWarning, match=r"p1_c.png is empty"):
        assert all(reference.mark is None for reference in read(folder))


def test_marks_that_belong_to_no_image_are_warned_about(folder: Path, draw_mark: Writer) -> None:
    for name in ("crack/p1_c_mask", "scratch/p1_c", "p1_c"):
        draw_mark(f"refs/masks/{name}.png")
    with pytest.warns(UserWarning, match="3 marks belong to no reference"):
        assert all(reference.mark is None for reference in read(folder))


def test_doubtful_marks_are_refused(folder: Path, draw: Writer, draw_mark: Writer) -> None:
    first = draw_mark("refs/masks/crack/p1_c.jpg")
    with pytest.raises(ReferenceSetError, match="lossless"):
        read(folder)
    draw_mark("refs/masks/crack/p1_c.png")
    with pytest.raises(ReferenceSetError, match="has 2 marks"):
        read(folder)
    first.unlink()
    draw("refs/crack/p1_c.tif")
    with pytest.raises(ReferenceSetError, match="fits two images"):
        read(folder)


def test_a_mark_may_cover_the_whole_micrograph_with_a_warning(folder: Path, draw_mark: Writer) -> None:
    file = draw_mark("refs/masks/crack/p1_c.png", rows=slice(None), columns=slice(None))
    with pytest.warns(UserWarning, match=re.escape(f"{file} covers 100% of crack/p1_c.png")):
        (mark,) = (reference.mark for reference in read(folder) if reference.mark is not None)
    assert mark.all()


def test_a_boolean_mark_of_tifffile_is_told_to_be_upside_down(folder: Path) -> None:
    """The tag declares zero as white, and the mask is read accordingly."""
    mark = np.zeros((40, 48), dtype=bool)
    mark[2:6, 3:9] = True
    (folder / "masks" / "crack").mkdir(parents=True)
    file = folder / "masks" / "crack" / "p1_c.tif"
    tifffile.imwrite(file, mark)
    with pytest.warns(
        UserWarning, match=rf"{re.escape(str(file))} covers 99% of .*probably inverted.*white on the flaw"
    ):
        (read_back,) = (reference.mark for reference in read(folder) if reference.mark is not None)
    np.testing.assert_array_equal(read_back, ~mark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tifffile.imwrite(file, mark.astype(np.uint8))
        (read_back,) = (reference.mark for reference in read(folder) if reference.mark is not None)
    np.testing.assert_array_equal(read_back, mark)


def test_a_mark_that_covers_half_is_not_warned_of(folder: Path, draw_mark: Writer) -> None:
    draw_mark("refs/masks/crack/p1_c.png", rows=slice(20), columns=slice(None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(folder)


def test_an_unreadable_mark_is_named(folder: Path, draw_mark: Writer) -> None:
    mark = draw_mark("refs/masks/crack/p1_c.png")
    mark.write_bytes(b"no image")
    with pytest.raises(ReferenceSetError, match=re.escape(str(mark))):
        read(folder)


def test_a_missing_or_wrong_folder_is_explained(folder: Path, tmp_path: Path, draw: Writer) -> None:
    with pytest.raises(ReferenceSetError, match="does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(ReferenceSetError, match="from_csv"):
        read(folder / "sound" / "p1_a.png")
    with pytest.raises(ReferenceSetError, match="no class folders"):
        read(folder / "sound")
    with pytest.raises(ReferenceSetError, match=r"marks .*does not exist"):
        read(folder, marks=tmp_path / "absent")


def test_class_folders_without_images_are_all_named(folder: Path) -> None:
    (folder / "fray").mkdir()
    (folder / "wear").mkdir()
    (folder / "wear" / "list.txt").write_text("none")
    with pytest.raises(ReferenceSetError, match=r"(?s)fray.*wear"):
        read(folder)


def test_a_missing_authentic_class_is_answered_with_the_closest(folder: Path) -> None:
    with pytest.raises(ReferenceSetError, match=r"did you mean 'sound'.*blowhole, crack, sound"):
        ReferenceSet.from_folder(folder, authentic="sund")


def test_all_unreadable_files_are_found_in_one_go(folder: Path) -> None:
    for index in range(12):
        (folder / "crack" / f"bad_{index:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk")
    (folder / "sound" / "bad_link.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(ReferenceSetError, match="13 of 19 references") as caught:
        read(folder)
    message = str(caught.value)
    assert message.count("bad_") >= 10
    assert "bad_link.png" in message
    assert "and 3 more" in message


def test_a_single_unreadable_file_is_named_with_its_reason(folder: Path) -> None:
    whole = (folder / "crack" / "p1_c.png").read_bytes()
    (folder / "crack" / "p1_c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReferenceSetError, match=r"p1_c\.png"):
        read(folder)


def test_one_image_in_two_classes_is_refused_and_twice_in_a_class_kept_once(folder: Path) -> None:
    shutil.copy(folder / "sound" / "p1_a.png", folder / "sound" / "p8_copy.png")
    with pytest.warns(UserWarning, match=r"sound/p8_copy.png is a copy of sound/p1_a.png"):
        assert read(folder).counts["sound"] == 3
    shutil.copy(folder / "sound" / "p1_a.png", folder / "crack" / "p7.png")
    of_one = r"sound/p1_a.png \('sound'\) and sound/p8_copy.png \('sound'\) and crack/p7.png \('crack'\)"
    with pytest.raises(ReferenceSetError, match=of_one):
        read(folder)


def test_every_image_in_two_classes_is_named_or_kept_where_that_is_allowed(folder: Path) -> None:
    for name in ("p1_a", "p2_a"):
        Image.open(folder / "sound" / f"{name}.png").save(folder / "crack" / f"{name}.tif")
    with pytest.raises(ReferenceSetError, match=r"(?s)2 images .*sound/p1_a.png .*crack/p1_a.tif .*crack/p2_a.tif"):
        read(folder)
    assert read(folder, allow_conflicts=True).counts == {"sound": 3, "blowhole": 1, "crack": 4}


@pytest.mark.parametrize("limit", [0, -5, 1e6])
def test_a_limit_of_pixels_that_is_no_number_of_them_is_refused(folder: Path, limit: object) -> None:
    with pytest.raises(ReferenceSetError, match=r"max_pixels is .*; give an integer from 1"):
        read(folder, max_pixels=limit)


def test_a_tilde_is_the_home_folder(folder: Path, draw_mark: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    draw_mark("drawn/crack/p1_c.png")
    names = [reference.name for reference in read(folder)]
    (home / "pieces.csv").write_text("file,group\n" + "".join(f"{name},one\n" for name in names))
    references = read("~/refs", marks="~/drawn", groups="~/pieces.csv")  # type: ignore[arg-type]
    assert [reference.name for reference in references] == names
    assert references.specimens == ("one",)
    assert sum(reference.mark is not None for reference in references) == 1


@pytest.mark.parametrize("path", [None, ["refs"], 3, io.BytesIO()])
def test_what_is_not_a_path_is_refused(folder: Path, path: object) -> None:
    with pytest.raises(ReferenceSetError, match=r"expected the path of a folder .*, got .*; pass a string or a Path"):
        read(path)  # type: ignore[arg-type]
    if path is not None:
        with pytest.raises(ReferenceSetError, match="expected the path of a folder of marks, got"):
            read(folder, marks=path)


def test_too_many_files_are_refused_before_any_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_diff.references.reference.MAX_REFERENCES", 5)
    with pytest.raises(ReferenceSetError, match="6 references, more than 5"):
        read(folder, progress=lambda done, total: pytest.fail("a file was read"))


def test_a_folder_of_a_mac_has_the_class_that_is_typed(folder: Path, draw: Writer, draw_mark: Writer) -> None:
    decomposed, typed = (unicodedata.normalize(form, "Größe") for form in ("NFD", "NFC"))
    draw(f"refs/{decomposed}/a{decomposed}.png")
    draw_mark(f"refs/masks/{typed}/a{typed}.png")
    (folder / "groups.csv").write_text(f"file,group\n{typed}/a{typed}.png,g\n", encoding="utf-8")
    with pytest.raises(ReferenceSetError, match="gives no group for 6 of 7 files"):
        ReferenceSet.from_folder(folder, authentic="sound")
    (folder / "groups.csv").unlink()
    references = ReferenceSet.from_folder(folder, authentic="sound")
    assert references.classes == ("sound", typed, "blowhole", "crack")
    assert [each.mark is not None for each in references if each.label == typed] == [True]
    shutil.rmtree(folder / "masks")
    assert ReferenceSet.from_folder(folder, authentic=decomposed).authentic == typed


def test_two_folders_of_one_name_or_of_two_cases_are_refused(folder: Path, draw: Writer) -> None:
    draw("refs/Sound/a.png")
    if len(list(folder.glob("[sS]ound"))) < 2:
        pytest.skip("this file system does not tell them apart")
    with pytest.raises(ReferenceSetError, match="the classes 'Sound' and 'sound', which differ only"):
        read(folder)
    (folder / "Sound" / "a.png").unlink()
    (folder / "Sound").rmdir()
    for form in ("NFC", "NFD"):
        draw(f"refs/{unicodedata.normalize(form, 'größe')}/{form}.png")
    with pytest.raises(ReferenceSetError, match=r"two folders are named .*: put their images into one"):
        read(folder)


def test_images_in_subfolders_of_a_class_are_told_of(folder: Path, draw: Writer) -> None:
    draw("refs/crack/2024/a.png")
    draw("refs/crack/2024/b/c.tif")
    draw("refs/sound/__MACOSX/d.png")
    with pytest.warns(UserWarning, match=r"(?s)skipped 2 images in subfolders of the classes.*a\.png.*c\.tif"):
        assert len(read(folder)) == 6


def test_the_folder_of_marks_may_have_capitals_or_another_name(folder: Path, draw_mark: Writer) -> None:
    draw_mark("refs/Masks/crack/p1_c.png")
    assert [each.name for each in read(folder) if each.mark is not None] == ["crack/p1_c.png"]
    (folder / "Masks").rename(folder / "annot")
    references = read(folder, marks=folder / "annot")
    assert references.classes == ("sound", "blowhole", "crack")
    assert [each.name for each in references if each.mark is not None] == ["crack/p1_c.png"]
    (folder / "annot").rename(folder / "masks")
    (folder / "MASKS").mkdir(exist_ok=True)
    if len(list(folder.glob("[mM][aA][sS][kK][sS]"))) == 2:
        with pytest.raises(ReferenceSetError, match="both folders of marks: keep one"):
            read(folder)


def test_a_mark_that_is_a_jpeg_under_another_name_is_refused(folder: Path, draw_mark: Writer) -> None:
    """It has grey noise around the flaw, and every level but 0 counts."""
    mark = folder / "masks" / "crack" / "p1_c.png"
    mark.parent.mkdir(parents=True)
    Image.open(draw_mark("drawn.png", level=255)).save(mark, "JPEG")
    with pytest.raises(ReferenceSetError, match=r"p1_c\.png is not lossless; save it as PNG or TIFF, not as JPEG"):
        read(folder)


@pytest.mark.parametrize("grey", [False, True])
def test_a_flaw_on_a_transparent_layer_is_what_is_painted(
    folder: Path, draw_mark: Writer, monkeypatch: pytest.MonkeyPatch, grey: bool
) -> None:
    alpha = np.asarray(Image.open(draw_mark("drawn.png", level=90)))
    white = np.full_like(alpha, 255)
    (folder / "masks" / "crack").mkdir(parents=True)
    mark = folder / "masks" / "crack" / "p1_c.png"
    Image.fromarray(np.dstack([white, alpha] if grey else [white, white, white, alpha])).save(mark)
    assert [int(each.mark.sum()) for each in read(folder) if each.mark is not None] == [24]
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 10)  # larger files are mapped into memory
    assert [int(each.mark.sum()) for each in read(folder) if each.mark is not None] == [24]
    Image.open(mark).save(mark.with_suffix(".tif"))
    mark.unlink()
    with pytest.raises(ReferenceSetError, match=r"p1_c\.tif has transparent pixels, .*: flatten it"):
        read(folder)
