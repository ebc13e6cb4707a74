"""Changes and uncertainties on reading are noted on the micrograph."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.micrograph.metadata import exif_orientation

GREY = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)


def with_alpha(alpha: int) -> np.ndarray:
    """A colour image whose upper quarter is partly transparent."""
    pixels = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    pixels[:16, :, 3] = alpha
    return pixels


def test_a_plain_file_has_no_notes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um"})
    assert load_microstructure_data(tmp_path / "a.tif").notes == ()


def test_images_that_are_not_read_are_noted_as_well_as_warned_of(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * 3), photometric="minisblack")
    with pytest.warns(UserWarning, match="only the first was read"):
        notes = load_microstructure_data(tmp_path / "a.tif").notes
    assert notes == ("The file holds 3 images of the same size; only the first was read.",)
    assert load_microstructure_data(tmp_path / "a.tif", page=1).notes == ()


@pytest.mark.parametrize(
    ("sides", "size", "said"),
    [
        ((0.5, 0.5), 0.5, None),
        ((0.4, 0.5), 0.2**0.5, "Its pixels are 0.4 by 0.5 µm, not square; 0.4472 µm is used for both sides"),
        ((0.1, 0.5), None, "Its pixels are 0.1 by 0.5 µm, too far from square, so the pixel size is unknown"),
    ],
)
def test_pixels_that_are_not_square_are_noted(tmp_path, sides, size, said):
    per_um = tuple(1 / side for side in sides)
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=per_um, metadata={"unit": "um"})
    micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert micrograph.pixel_size_um == (size and pytest.approx(size, rel=1e-4))
    assert len(micrograph.notes) == (said is not None)
    assert said is None or micrograph.notes[0].startswith(said)


@pytest.mark.parametrize(
    ("sides", "said"), [((0.5, 0.5), "0.5 µm"), ((0.4, 0.5), "0.4 by 0.5 µm"), ((0.1, 0.5), "0.1 by 0.5 µm")]
)
def test_a_pixel_size_given_by_hand_is_noted_where_the_file_says_another(tmp_path, sides, said):
    per_um = tuple(1 / side for side in sides)
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=per_um, metadata={"unit": "um"})
    micrograph = load_microstructure_data(tmp_path / "a.tif", pixel_size_um=0.3)
    assert (micrograph.pixel_size_um, micrograph.pixel_size_source, micrograph.pixel_aspect) == (0.3, "given", 1.0)
    assert micrograph.notes == (f"Its pixel size was given as 0.3 µm, but the ImageJ metadata say {said}.",)


@pytest.mark.parametrize("given", [0.497, 0.5, 0.503])
def test_a_pixel_size_given_by_hand_as_the_file_has_it_is_not_noted(tmp_path, given):
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um"})
    assert load_microstructure_data(tmp_path / "a.tif").pixel_size_source == "ImageJ metadata"
    assert load_microstructure_data(tmp_path / "a.tif", pixel_size_um=given).notes == ()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "way"), [(1, None), (2, "mirrored"), (6, "turned"), (7, "turned and mirrored"), (9, None)]
)
def test_an_orientation_that_was_not_applied_is_noted(tmp_path, suffix, orientation, way):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}", exif=exif)
    micrograph = load_microstructure_data(tmp_path / f"a.{suffix}")
    assert micrograph.shape == GREY.shape
    said = (
        f"The file asks to be shown {way} (orientation {orientation}), but it was judged as stored; verdicts depend on "
        "the orientation."
    )
    assert micrograph.notes == ((said,) if way else ())


def test_an_orientation_after_the_pixels_of_a_png_is_noted(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start, pixels, end = (data.index(kind) - 4 for kind in (b"eXIf", b"IDAT", b"IEND"))
    assert start < pixels
    (tmp_path / "b.png").write_bytes(data[:start] + data[pixels:end] + data[start:pixels] + data[end:])
    first, second = (load_microstructure_data(tmp_path / name) for name in ("a.png", "b.png"))
    assert first.notes == second.notes != ()


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"MM\0*\0\0\0\xff", b"II*\0\x08\0\0\0\xff\xff", bytes(200)])
def test_malformed_exif_data_have_no_orientation(data):
    assert exif_orientation(data) == 1


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize(("alpha", "noted"), [(255, False), (128, True), (0, True)])
def test_transparent_pixels_are_noted(tmp_path, suffix, alpha, noted):
    path, pixels = tmp_path / f"a.{suffix}", with_alpha(alpha)
    if suffix == "png":
        Image.fromarray(pixels).save(path)
    elif suffix == "bmp":
        # Version 4 of the header has a mask for the alpha channel; older headers of 32 bits per pixel have no alpha.
        head = struct.pack("<IiiHHIIiiII", 108, 80, -64, 1, 32, 3, 0, 0, 0, 0, 0)
        head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(108 - len(head), b"\0")
        path.write_bytes(struct.pack("<2sIII", b"BM", 122 + pixels.nbytes, 0, 122) + head + pixels.tobytes())
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        micrograph = load_microstructure_data(path)
    said = "25 % of its pixels are fully or partly transparent; the alpha channel was dropped."
    assert micrograph.notes == ((said,) if noted else ())
    assert micrograph.shape == (64, 80, 3)


def test_a_data_bar_that_was_cut_off_is_noted(tmp_path):
    pixels = np.vstack([np.random.default_rng(1).normal(128, 30, (300, 360)).clip(1, 254), np.zeros((60, 360))])
    pixels[310:350:4, 20:300:3] = 255
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint8))
    micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert micrograph.data_bar_px == 60
    assert micrograph.notes == ("A data bar of 60 rows was cropped from the bottom.",)
    assert "data bar" not in " ".join(load_microstructure_data(tmp_path / "a.tif", crop_data_bar=False).notes)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("share", [0.09, 0.11, 0.978])
@pytest.mark.parametrize("level", [65535, 0])
def test_a_burnt_out_or_black_image_is_noted(tmp_path, level, share, colours):
    pixels = np.random.default_rng(0).integers(1, 65535, (200, 200), dtype=np.uint16)
    pixels[: round(200 * share)] = level
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([pixels] * 3) if colours else pixels)
    said = f"{100 * round(200 * share) / 200:.3g} % of its pixels are at one level, {level}, where differences"
    notes = load_microstructure_data(tmp_path / "a.tif").notes
    assert notes == (() if share < 0.1 else (f"{said} are lost.",))


def test_one_saturated_channel_is_no_burnt_out_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert load_microstructure_data(tmp_path / "a.tif").notes == ()


def test_a_level_is_noted_once_where_nothing_else_is_sampled(tmp_path):
    pixels = np.full((2048, 2048), 7, dtype=np.uint8)  # of sides this long, every other row and column is sampled
    pixels[1::2, 1::2] = 9
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    said = "100 % of its pixels are at one level, 7, where differences are lost."
    assert load_microstructure_data(tmp_path / "a.tif").notes == (said,)
