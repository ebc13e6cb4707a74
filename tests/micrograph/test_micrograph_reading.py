import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import discover, load_microstructure_data

REPEATED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
ANY_DTYPE = [np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32, np.float16, np.float32, np.float64]


def texture(shape=(48, 56), dtype=np.uint8, seed=0):
    """Return levels over the whole range of the dtype. float32 holds those of 8 and 16 bits exactly."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@REPEATED
@given(
    dtype=st.sampled_from(ANY_DTYPE),
    height=st.integers(32, 70),
    width=st.integers(32, 70),
    layout=st.sampled_from([{}, {"tile": (32, 16)}, {"rowsperstrip": 7}]),
    compression=st.sampled_from([None, "zlib", "lzw", "zstd", "packbits", "lzma"]),
    channels=st.sampled_from([(), (3,)]),
    byteorder=st.sampled_from("<>"),
    bigtiff=st.booleans(),
)
def test_every_tiff_comes_back_as_it_was_written(
    tmp_path, dtype, height, width, layout, compression, channels, byteorder, bigtiff
):
    levels = texture((height, width, *channels), dtype)
    path = tmp_path / "image.tif"
    photometric = "rgb" if channels else "minisblack"
    tifffile.imwrite(
        path,
        levels,
        photometric=photometric,
        compression=compression,
        byteorder=byteorder,
        bigtiff=bigtiff,
        predictor=compression in ("zlib", "lzw") and np.dtype(dtype).itemsize < 8,
        **layout,
    )
    micrograph = load_microstructure_data(path, crop_data_bar=False)
    assert micrograph.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(micrograph.pixels, levels.astype(np.float32))


@REPEATED
@given(
    dtype=st.sampled_from([np.uint8, np.uint16]),
    height=st.integers(32, 70),
    width=st.integers(32, 70),
    channels=st.integers(1, 4),
)
def test_every_png_comes_back_as_it_was_written_without_its_alpha(tmp_path, dtype, height, width, channels):
    levels = texture((height, width, channels), dtype)
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(levels if channels > 1 else levels[..., 0]))
    expected = levels[..., 0] if channels < 3 else levels[..., :3]
    micrograph = load_microstructure_data(path, crop_data_bar=False)
    assert micrograph.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(micrograph.pixels, expected)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_16_bit_ramp_keeps_its_65536_levels(tmp_path, kind):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"ramp.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, ramp)
    else:
        path.write_bytes(imagecodecs.png_encode(ramp))
    micrograph = load_microstructure_data(path)
    assert len(np.unique(micrograph.pixels)) == 65536
    assert micrograph.data_bar_px == 0


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "lzw", "deflate", "packbits", "zstd", "lzma"])
def test_compressed_tiffs_are_read_without_loss(tmp_path, compression):
    levels = texture((64, 64, 3))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, levels, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, levels)


@pytest.mark.parametrize(
    ("compression", "said"),
    [
        ("webp", r"WebP \(TIFF compression 50001\)"),
        ("jpegxl", r"JPEG XL \(TIFF compression 50002\)"),
        ("jpegxr", r"JPEG XR \(TIFF compression 34934\)"),
        ("lerc", r"LERC \(TIFF compression 34887\)"),
        (("pixtiff", 50013), r"an unknown codec \(TIFF compression 50013\)"),
        (("ccitt", 4), r"CCITT Group 4 \(TIFF compression 4\)"),
        (("eer", 65000), r"an unknown codec \(TIFF compression 65000\)"),
        (("unknown", 54321), r"an unknown codec \(TIFF compression 54321\)"),
    ],
    ids=str,
)
def test_a_tiff_of_a_codec_that_no_microscope_writes_is_refused_with_its_name(tmp_path, compression, said):
    path = tmp_path / "image.tif"
    if isinstance(compression, str):
        tifffile.imwrite(path, texture((64, 64, 3)), photometric="rgb", compression=compression)
    else:
        tifffile.imwrite(path, texture((64, 64)))
        with tifffile.TiffFile(path, mode="r+b") as file:
            entry = file.pages.first.tags[259]
            entry.overwrite(compression[1])
    with pytest.raises(MicrographError, match=rf"image\.tif: its pixels are compressed by {said}.*LZW or deflate"):
        load_microstructure_data(path)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_a_jpeg_compressed_colour_tiff_is_read_as_rgb(tmp_path, photometric):
    smooth = np.stack([*np.meshgrid(np.arange(64), np.arange(64)), np.full((64, 64), 90)], axis=-1).astype(np.uint8)
    stored = smooth if photometric == "rgb" else np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored, photometric=photometric, compression="jpeg", compressionargs={"level": 98})
    np.testing.assert_allclose(load_microstructure_data(path).pixels, smooth, atol=6)


def test_planes_stored_one_after_another_become_channels(tmp_path):
    levels = texture((3, 40, 50), np.uint16)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, levels, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, np.moveaxis(levels, 0, -1))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (texture(dtype=np.uint8), lambda a: 255 - a.astype(float)),
        (texture(dtype=np.uint16), lambda a: 65535 - a.astype(float)),
        (texture(dtype=np.int16), lambda a: -1 - a.astype(float)),
        (texture(dtype=np.float32), lambda a: -a),
        (texture() > 99, lambda a: 1 - a.astype(float)),
    ],
    ids=["uint8", "uint16", "int16", "float32", "bilevel"],
)
def test_min_is_white_is_inverted(tmp_path, levels, expected):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, levels, photometric="miniswhite")
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, expected(levels))


def test_a_bilevel_tiff_has_the_levels_0_and_1(tmp_path):
    bits = texture() > 99
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, bits, photometric="minisblack")
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, bits.astype(float))


@pytest.mark.parametrize("scale", [257, 256, 1])
@pytest.mark.parametrize("grey", [True, False])
def test_a_palette_tiff_becomes_its_colours_or_greys(tmp_path, scale, grey):
    indices = texture()
    colours = np.random.default_rng(1).permuted(np.tile(np.arange(256, dtype=np.uint16), (3, 1)), axis=1)
    if grey:
        colours = np.tile(colours[:1], (3, 1))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, indices, photometric="palette", colormap=colours * np.uint16(scale))
    expected = colours[0][indices] if grey else np.moveaxis(colours[:, indices], 0, -1)
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, expected)


@pytest.mark.parametrize("kind", ["png", "bmp"])
@pytest.mark.parametrize("grey", [True, False])
def test_a_palette_image_becomes_its_colours_or_greys(tmp_path, kind, grey):
    indices = texture()
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    if grey:
        colours[:] = colours[:, :1]
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"image.{kind}")
    expected = colours[indices][..., 0] if grey else colours[indices]
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / f"image.{kind}").pixels, expected)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_bmps_are_read_as_grey_or_colour(tmp_path, mode):
    image = Image.fromarray(texture((48, 56, 4)), "RGBA").convert(mode)
    image.save(tmp_path / "image.bmp")
    micrograph = load_microstructure_data(tmp_path / "image.bmp")
    expected = np.asarray(image)[..., :3] if mode == "RGBA" else np.asarray(image)
    np.testing.assert_array_equal(micrograph.pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pngs_of_few_bits_keep_their_levels(tmp_path, bits):
    levels = texture() % 2**bits
    image = Image.fromarray(levels.astype(bool)) if bits == 1 else Image.fromarray(levels)
    path = tmp_path / "image.png"
    if bits == 1:
        image.save(path)
    else:
        path.write_bytes(grey_png(levels, bits))
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, levels)


def grey_png(levels, bits):
    """Write a PNG of packed greys by hand, as Pillow and imagecodecs write only 1 or 8 bits."""
    unpacked = np.unpackbits(levels[..., None].astype(np.uint8), axis=2)[..., 8 - bits :]
    rows = np.packbits(unpacked.reshape(len(levels), -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, 0, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpegs_are_read_as_pillow_reads_them(tmp_path, mode):
    image = Image.fromarray(texture((48, 56, 3))).convert(mode)
    image.save(tmp_path / "image.jpg")
    expected = np.asarray(Image.open(tmp_path / "image.jpg"))
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "image.jpg").pixels, expected)


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path):
    levels = texture()
    path = tmp_path / "a picture.jpg"
    tifffile.imwrite(tmp_path / "image.tif", levels)
    (tmp_path / "image.tif").rename(path)
    np.testing.assert_array_equal(load_microstructure_data(str(path)).pixels, levels)


def test_the_digest_is_that_of_the_file(tmp_path):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, texture())
    micrograph = load_microstructure_data(path)
    assert micrograph.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (micrograph.source, micrograph.name) == (path, str(path))


def test_any_page_of_a_stack_can_be_read_and_one_too_many_is_refused_with_their_number(tmp_path):
    stack = texture((5, 40, 50), np.uint16)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    for page in range(5):
        np.testing.assert_array_equal(load_microstructure_data(path, page=page).pixels, stack[page])
    with pytest.raises(MicrographError, match=r"stack\.tif: it has 5 pages, so there is no page 5"):
        load_microstructure_data(path, page=5)


def test_an_imagej_stack_is_read_by_page(tmp_path):
    stack = texture((4, 40, 50), np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True)
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "stack.tif", page=3).pixels, stack[3])


def test_pages_of_different_size_and_kind_are_read_as_they_are(tmp_path):
    first, second = texture((40, 50)), texture((64, 70, 3), np.uint16)
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(first)
        writer.write(second, photometric="rgb", compression="zlib")
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "mixed.tif").pixels, first)
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "mixed.tif", page=1).pixels, second)


@pytest.mark.parametrize("page", [-1, 0.5, "1"])
def test_a_page_that_is_no_index_is_refused(tmp_path, page):
    tifffile.imwrite(tmp_path / "image.tif", texture())
    with pytest.raises(MicrographError, match="page is"):
        load_microstructure_data(tmp_path / "image.tif", page=page)


def test_a_png_has_one_page(tmp_path):
    (tmp_path / "image.png").write_bytes(imagecodecs.png_encode(texture()))
    with pytest.raises(MicrographError, match="a PNG has 1 page, so there is no page 1"):
        load_microstructure_data(tmp_path / "image.png", page=1)


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_the_alpha_of_a_grey_tiff_is_dropped(tmp_path, extra):
    levels = texture((40, 50, 2))
    tifffile.imwrite(
        tmp_path / "image.tif", levels, photometric="minisblack", extrasamples=[extra], planarconfig="contig"
    )
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "image.tif").pixels, levels[..., 0])


def test_the_alpha_of_a_colour_tiff_is_dropped(tmp_path):
    levels = texture((40, 50, 4), np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", levels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "image.tif").pixels, levels[..., :3])


@pytest.mark.parametrize("channels", [2, 4, 5, 300])
def test_channels_that_are_neither_grey_nor_colour_are_refused(tmp_path, channels):
    path = tmp_path / "channels.tif"
    tifffile.imwrite(path, texture((40, 50, channels)), photometric="minisblack", planarconfig="contig")
    with pytest.raises(MicrographError, match=rf"channels\.tif: it has {channels} channels.*grey image"):
        load_microstructure_data(path)


def test_complex_pixels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", texture().astype(np.complex64))
    with pytest.raises(MicrographError, match="complex"):
        load_microstructure_data(tmp_path / "image.tif")


def test_print_colours_are_refused(tmp_path):
    Image.fromarray(texture((48, 56, 4)), "CMYK").save(tmp_path / "image.jpg")
    tifffile.imwrite(tmp_path / "image.tif", texture((48, 56, 4)), photometric="separated")
    for name in ("image.jpg", "image.tif"):
        with pytest.raises(MicrographError, match="convert it to grey or RGB"):
            load_microstructure_data(tmp_path / name)


def test_nan_and_infinity_in_a_file_are_counted_and_located(tmp_path):
    levels = texture(dtype=np.float32)
    levels[4, 5], levels[9, 9] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "image.tif", levels, compression="zlib")
    with pytest.raises(
        MicrographError, match=r"image\.tif: 2 values are NaN or infinite, the first at row 4, column 5"
    ):
        load_microstructure_data(tmp_path / "image.tif")


@pytest.mark.parametrize("value", [np.inf, -1e300])
@pytest.mark.filterwarnings("error")
def test_a_file_of_which_many_values_are_infinite_in_single_precision_is_refused_without_a_warning(tmp_path, value):
    levels = texture(dtype=np.float64)
    levels[-20:] = value
    tifffile.imwrite(tmp_path / "image.tif", levels)
    with pytest.raises(MicrographError, match="1,120 values are NaN or infinite, the first at row 28, column 0"):
        load_microstructure_data(tmp_path / "image.tif")


def test_a_black_file_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((64, 64), np.uint16))
    with pytest.raises(MicrographError, match=r"image\.tif: every pixel has the level 0"):
        load_microstructure_data(tmp_path / "image.tif")


@pytest.mark.parametrize("shape", [(1, 1), (31, 200), (200, 31)])
def test_a_tiny_image_is_refused(tmp_path, shape):
    (tmp_path / "image.png").write_bytes(imagecodecs.png_encode(texture(shape)))
    with pytest.raises(MicrographError, match=f"{shape[1]}x{shape[0]} pixels, but each side must have at least 32"):
        load_microstructure_data(tmp_path / "image.png")


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path):
    (tmp_path / "empty.tif").touch()
    for path, problem in (
        (tmp_path / "absent.tif", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "empty.tif", "empty"),
    ):
        with pytest.raises(MicrographError, match=problem) as caught:
            load_microstructure_data(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, ""])
def test_impossible_paths_are_refused(path):
    with pytest.raises(MicrographError):
        load_microstructure_data(path)


@pytest.mark.parametrize("path", [None, 3, Path])
def test_what_is_not_a_path_is_refused(path):
    with pytest.raises(MicrographError, match=r"expected the path of a file, got .*; pass a string or a Path"):
        load_microstructure_data(path)


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        (texture(), r"Micrograph\.from_array"),
        (Image.fromarray(texture()), r"Micrograph\.from_array"),
        (torch.zeros(40, 50), r"Micrograph\.from_array"),
        (b"II*", "save it to a file first"),
        (io.BytesIO(b"II*"), "save it to a file first"),
    ],
)
def test_an_image_in_memory_is_told_how_it_becomes_a_micrograph(content, cure):
    with pytest.raises(MicrographError, match=f"expected the path of a file, got .*; .*{cure}"):
        load_microstructure_data(content)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    tifffile.imwrite(tmp_path / "good.tif", texture())
    assert load_microstructure_data("~/good.tif").source == tmp_path / "good.tif"
    assert discover(["~/*.tif", Path("~")]) == [tmp_path / "good.tif"]
    for path in ("~nobody-here/good.tif", "~nobody\0here"):
        with pytest.raises(MicrographError):
            load_microstructure_data(path)
        with pytest.raises(MicrographError):
            discover(path)


@pytest.mark.parametrize("limit", [0, -1, 1e9, "many"])
def test_a_limit_of_pixels_that_is_no_number_of_them_is_refused(tmp_path, limit):
    tifffile.imwrite(tmp_path / "good.tif", texture())
    with pytest.raises(MicrographError, match=r"good\.tif: max_pixels is .*; give an integer from 1, or None"):
        load_microstructure_data(tmp_path / "good.tif", max_pixels=limit)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "bmp"])
def test_no_limit_of_pixels_is_the_default_one(tmp_path, suffix):
    Image.fromarray(texture()).save(tmp_path / f"good.{suffix}")
    assert load_microstructure_data(tmp_path / f"good.{suffix}", max_pixels=None).pixels.size


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(MicrographError, match="pipe"):
        load_microstructure_data(tmp_path / "pipe.tif")


def test_no_handle_is_left_open_after_reading_or_failing(tmp_path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files")
    tifffile.imwrite(tmp_path / "good.tif", texture())
    (tmp_path / "bad.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:500])
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        load_microstructure_data(tmp_path / "good.tif")
        with pytest.raises(MicrographError):
            load_microstructure_data(tmp_path / "bad.tif")
    assert len(list(descriptors.iterdir())) == before


def test_every_gallery_image_is_read():
    gallery = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ceramic_sem_gallery"
    if not gallery.exists():
        pytest.skip("the gallery of real micrographs is not here")
    files = [path for path in sorted(gallery.rglob("*")) if path.is_file()]
    shapes = {load_microstructure_data(path).shape for path in files}
    assert (690, 1024) in shapes
