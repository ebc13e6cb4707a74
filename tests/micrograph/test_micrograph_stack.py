"""TIFFs of several images are reported; those of one image with its thumbnails and masks are not."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import ifd, load_microstructure_data
from fusion_diff.micrograph.ifd import directories


def texture(shape, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def read(path, **options):
    """Read a file and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_microstructure_data(path, **options)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "compression": "zlib", "byteorder": ">"},
        {"photometric": "minisblack", "bigtiff": True, "description": "a stack", "metadata": None},
        {"imagej": True},
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "photometric": "minisblack"},
    ],
)
def test_several_images_are_told_of_unless_one_was_chosen(tmp_path, options):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, texture((4, 64, 50)), **options)
    (said,) = read(path)
    assert said.startswith(f"{path}: The file holds 4 images of the same size; only the first was read. Split it")
    assert read(path, page=0) == read(path, page=2) == []


def test_several_colour_images_are_told_of(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", texture((3, 64, 50, 3), np.uint8), photometric="rgb")
    (said,) = read(tmp_path / "stack.tif")
    assert "3 images" in said


def test_a_stack_under_one_directory_is_told_of_where_it_is_all_there(tmp_path):
    stack = texture((4, 64, 50))
    text = "ImageJ=1.54f\nimages=4\nslices=4\n"
    for name, more in (("stack.tif", stack[1:].tobytes()), ("one.tif", b"")):
        tifffile.imwrite(tmp_path / name, stack[0], description=text, metadata=None, software=False)
        with (tmp_path / name).open("ab") as file:
            file.write(more)
    (said,) = read(tmp_path / "stack.tif")
    assert "4 images" in said
    assert read(tmp_path / "one.tif") == []


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64, 50), {}),
        ((64, 50), {"ome": True}),
        ((64, 50), {"imagej": True}),
        ((3, 64, 50), {"photometric": "rgb", "planarconfig": "separate"}),
        ((3, 64, 50), {"photometric": "rgb", "planarconfig": "separate", "ome": True}),
        ((64, 50, 3), {"photometric": "rgb", "imagej": True}),
        ((64, 50, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    ],
)
def test_one_image_is_not_told_of_however_it_is_stored(tmp_path, shape, options):
    tifffile.imwrite(tmp_path / "one.tif", texture(shape, np.uint8), **options)
    assert read(tmp_path / "one.tif") == []


def test_what_goes_with_an_image_is_not_told_of(tmp_path):
    with tifffile.TiffWriter(tmp_path / "image.tif") as writer:
        writer.write(texture((64, 50)), metadata=None)
        writer.write(texture((32, 25)), subfiletype=1, metadata=None)  # a level of a pyramid
        writer.write(texture((64, 50)), subfiletype=1, metadata=None)  # a thumbnail of the same size
        writer.write(texture((64, 50)), subfiletype=2, metadata=None)
        writer.write(texture((64, 50), np.uint8), metadata=None)  # a copy for the screen
        writer.write(texture((64, 50, 3), np.uint8), photometric="rgb", metadata=None)
    assert "2 images" in read(tmp_path / "image.tif")[0]
    with tifffile.TiffFile(tmp_path / "image.tif", mode="r+b") as tif:
        tif.pages[3].tags[254].overwrite(4)  # now it is a mask
    assert read(tmp_path / "image.tif") == []


def in_turn(path, *images, **options):
    """Write images of different sizes as pages; `options` apply to the first."""
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate(images):
            writer.write(image, metadata=None, **({} if index else options))


def test_the_largest_image_is_read_where_the_first_is_a_thumbnail(tmp_path):
    small, whole, other = texture((40, 32)), texture((80, 64), seed=1), texture((80, 64), seed=2)
    in_turn(tmp_path / "a.tif", small, whole)
    with pytest.warns(UserWarning, match=r"a\.tif: The first page is a thumbnail of 32x40 .* Split it into files, or"):
        micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert (micrograph.levels == whole).all()
    assert micrograph.page == 1
    said = "The first page is a thumbnail of 32x40 pixels, so page 1 (counted from 0) of 64x80 pixels was read."
    assert micrograph.notes == (said,)
    first = load_microstructure_data(tmp_path / "a.tif", page=0)
    assert (first.levels == small).all()
    assert (first.page, first.notes) == (0, ())
    in_turn(tmp_path / "b.tif", small, whole, other)
    (warned,) = read(tmp_path / "b.tif")
    assert "page 1 (counted from 0) of 64x80 pixels was read. The file holds 2 images of the same size" in warned


def test_a_thumbnail_that_says_so_is_noted_and_not_warned_of(tmp_path):
    in_turn(tmp_path / "a.tif", texture((60, 48)), texture((80, 64), seed=1), subfiletype=1)
    assert read(tmp_path / "a.tif") == []
    micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert (micrograph.shape, micrograph.page, len(micrograph.notes)) == ((80, 64), 1, 1)


def test_a_reduced_copy_without_its_original_is_told_of(tmp_path):
    in_turn(tmp_path / "a.tif", texture((60, 48)), subfiletype=1)
    (said,) = read(tmp_path / "a.tif")
    assert "a reduced copy of a larger one, but the file does not contain the larger one. Export the larger one" in said


@pytest.mark.parametrize("rows", [70, 250])  # a copy with a data bar, and nearly four times the pixels
def test_a_somewhat_larger_image_is_told_of_and_not_read(tmp_path, rows):
    in_turn(tmp_path / "a.tif", texture((64, 50)), texture((rows, 50)))
    with pytest.warns(
        UserWarning, match=rf"The first page was read \(50x64 .*page 1 .counted from 0. is larger \(50x{rows} pixels"
    ):
        micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert (micrograph.shape, micrograph.page, len(micrograph.notes)) == ((64, 50), None, 1)


@pytest.mark.parametrize("marked", [True, False])
def test_a_pyramid_is_read_at_its_base_wherever_it_begins(tmp_path, marked):
    levels = [texture((320 // step, 256 // step), seed=step) for step in (1, 2, 4)]
    with tifffile.TiffWriter(tmp_path / "down.tif") as writer:
        for index, level in enumerate(levels):
            writer.write(level, metadata=None, subfiletype=1 if index and marked else 0)
    assert read(tmp_path / "down.tif") == []
    micrograph = load_microstructure_data(tmp_path / "down.tif")
    assert (micrograph.shape, micrograph.page, micrograph.notes) == ((320, 256), None, ())
    in_turn(tmp_path / "up.tif", *levels[::-1], **({"subfiletype": 1} if marked else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_microstructure_data(tmp_path / "up.tif").shape == (320, 256)


def test_a_chain_of_directories_that_loops_ends(tmp_path):
    path = tmp_path / "loop.tif"
    tifffile.imwrite(path, texture((64, 50)), metadata=None)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * tags, first)
    path.write_bytes(content)
    assert read(path) == []


def stack_bytes():
    file = io.BytesIO()
    tifffile.imwrite(file, texture((3, 32, 32), np.uint8), imagej=True)
    return file.getvalue()


STACK = stack_bytes()


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=40), st.integers(8, len(STACK)))
def test_damaged_directories_are_refused_or_end_the_chain(changes, length):
    content = bytearray(STACK[:length])
    for position, value in changes:
        if position >= 8:
            content[position % length] = value
    if content[:4] == STACK[:4]:
        with contextlib.suppress(MicrographError):
            assert len(list(directories("image", io.BytesIO(content), length))) <= 100_000


def test_directories_that_overlap_are_not_read_without_end(monkeypatch):
    monkeypatch.setattr(ifd, "MOST_TAGS", 30)
    assert len(list(directories("image", io.BytesIO(STACK), len(STACK)))) == 2


def test_the_command_line_shows_it(tmp_path, call_cli, monkeypatch, darkness_model):
    from fusion_diff.commands import verify_model as module

    monkeypatch.setattr(module, "load_model", lambda name, device: darkness_model)
    tifffile.imwrite(tmp_path / "stack.tif", texture((4, 64, 50)), photometric="minisblack")
    _, _, err = call_cli("verify-model", "m", "--golden", tmp_path / "golden", "--make", tmp_path / "stack.tif")
    assert re.search(r"Warning: .*stack\.tif: The file holds 4 images", " ".join(err.split()))
