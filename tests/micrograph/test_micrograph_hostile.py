import io
import pickle
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.errors import MicrographError, TooManyPixelsError
from fusion_diff.micrograph import MAX_PIXELS, Micrograph, load_microstructure_data
from fusion_diff.micrograph.limits import MAX_PIXEL_BYTES
from fusion_diff.micrograph.metadata import from_png

REPEATED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
SIZE = (64, 72)
TEXTURE = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)


def tiff(levels=TEXTURE, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, levels, **options)
    return stream.getvalue()


def pillow(kind, mode="L", **options):
    stream = io.BytesIO()
    Image.fromarray(TEXTURE).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


GOOD = {
    "tiff": tiff(),
    "strips": tiff(rowsperstrip=8),
    "zlib": tiff(compression="zlib", tile=(16, 16)),
    "lzw": tiff(compression="lzw", predictor=True),
    "jpeg in tiff": tiff(compression="jpeg", tile=(16, 16)),
    "png in tiff": tiff(compression="png"),
    "imagej": tiff(imagej=True, resolution=(2, 2), metadata={"unit": "um"}),
    "ome": tiff(ome=True, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}),
    "stack": tiff(np.stack([TEXTURE] * 4), photometric="minisblack"),
    "png": imagecodecs.png_encode(TEXTURE),
    "palette png": pillow("PNG", "P"),
    "jpeg": pillow("JPEG"),
    "progressive jpeg": pillow("JPEG", "RGB", progressive=True),
    "bmp": pillow("BMP"),
    "colour bmp": pillow("BMP", "RGB"),
}


def read(folder, data, **options):
    """Read bytes as a file. Return the micrograph, or None if they were refused by a proper error."""
    path = folder / "hostile.bin"
    path.write_bytes(data)
    try:
        micrograph = load_microstructure_data(path, **options)
    except MicrographError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert str(path) in message
        assert "; " in message  # the cure
        return None
    assert isinstance(micrograph, Micrograph)
    assert np.isfinite(micrograph.pixels).all()
    return micrograph


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_files_of_this_module_are_good(tmp_path, kind):
    assert read(tmp_path, GOOD[kind]).shape[:2] == SIZE


@REPEATED
@given(kind=st.sampled_from(list(GOOD)), cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_or_still_whole(tmp_path, kind, cut):
    whole = read(tmp_path, GOOD[kind])
    partial = read(tmp_path, GOOD[kind][: int(cut * len(GOOD[kind]))])
    if partial is not None:  # the truncated end held no pixels
        np.testing.assert_array_equal(partial.pixels, whole.pixels)


@pytest.mark.parametrize(
    "kind", ["tiff", "strips", "zlib", "lzw", "png", "jpeg", "progressive jpeg", "bmp", "colour bmp"]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_lacks_pixels_is_refused(tmp_path, kind, share):
    (tmp_path / "cut").write_bytes(GOOD[kind][: int(share * len(GOOD[kind]))])
    with pytest.raises(MicrographError, match="truncated"):
        load_microstructure_data(tmp_path / "cut")


@REPEATED
@given(
    kind=st.sampled_from(list(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=8),
    near_start=st.booleans(),
)
def test_a_file_with_changed_bytes_is_refused_or_read_and_nothing_else(tmp_path, kind, changes, near_start):
    data = bytearray(GOOD[kind])
    for position, value in changes:
        data[position % (min(400, len(data)) if near_start else len(data))] = value
    read(tmp_path, bytes(data))


@REPEATED
@given(
    magic=st.sampled_from(
        [b"", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0\x08\0\0\0"]
    ),
    data=st.binary(min_size=1, max_size=600),
)
@example(magic=b"MM\0+", data=b"\0")
@example(magic=b"BM", data=b"\0")
def test_random_bytes_after_any_magic_number_are_refused(tmp_path, magic, data):
    assert read(tmp_path, magic + data) is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"not an image at all\n", "not an image"),
        (pickle.dumps([1, 2]), "a Python pickle"),
        (pickle.dumps([1, 2], protocol=0), "not an image"),
        (b"GIF89a" + bytes(50), "a GIF"),
        (b"%PDF-1.7" + bytes(50), "a PDF"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (bytes(1000), "not an image"),
    ],
)
def test_what_is_not_an_image_is_named_for_what_it_is(tmp_path, data, kind):
    (tmp_path / "image.tif").write_bytes(data)
    with pytest.raises(MicrographError, match=rf"image\.tif: the file is {'.*' + kind}.*export"):
        load_microstructure_data(tmp_path / "image.tif")


def test_what_git_lfs_leaves_in_place_of_a_file_is_to_be_fetched(tmp_path):
    (tmp_path / "image.tif").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(
        MicrographError, match=r"image\.tif: the file is what Git LFS leaves .*; fetch it with `git lfs"
    ):
        load_microstructure_data(tmp_path / "image.tif")


def directory(entries, following=0, order="<"):
    """Return a classic TIFF directory of (tag, type, count, value)."""
    out = struct.pack(order + "H", len(entries))
    for entry in sorted(entries):
        out += struct.pack(order + "HHII", *entry)
    return out + struct.pack(order + "I", following)


def claiming_tiff(width, height, *, bits=8, samples=1, compression=1, stored=64, extra=()):
    """Return a small TIFF that claims to be large."""
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, bits),
        259: (3, 1, compression),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, samples),
        278: (4, 1, height),
        279: (4, 1, stored),
    } | {code: rest for code, *rest in extra}
    head = struct.pack("<2sHI", b"II", 42, 8 + stored)
    pixels = bytes(range(256)) * (stored // 256) + bytes(range(stored % 256))
    return head + pixels + directory([(code, *rest) for code, rest in entries.items()])


def refused_cheaply(folder, data, match, **options):
    path = folder / "claim.tif"
    path.write_bytes(data)
    read(folder, GOOD["tiff"])  # imports the libraries before memory is measured
    tracemalloc.start()
    try:
        with pytest.raises(MicrographError, match=match):
            load_microstructure_data(path, **options)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [1, 5, 8, 7])
def test_a_claim_of_a_million_pixels_squared_is_refused_without_allocating(tmp_path, compression):
    data = claiming_tiff(10**6, 10**6, compression=compression)
    refused_cheaply(tmp_path, data, r"claims 1000000x1000000 = 1,000,000,000,000 pixels, more than the limit")


def test_a_narrow_strip_counts_with_the_pixels_it_is_enlarged_to(tmp_path):
    """It took two minutes to judge one of 300,000 pixels."""
    strip = np.random.default_rng(0).integers(0, 255, (9600, 32), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "strip.tif", strip)
    says = r"strip of 9600x32 pixels .* side has 224, and have 15,052,800, more than the limit of 2,000,000; cut it"
    with pytest.raises(TooManyPixelsError, match=says):
        load_microstructure_data(tmp_path / "strip.tif", max_pixels=2_000_000)
    assert load_microstructure_data(tmp_path / "strip.tif", max_pixels=2**24, crop_data_bar=False).height == 9600
    tifffile.imwrite(tmp_path / "small.tif", strip[:40])
    assert load_microstructure_data(tmp_path / "small.tif", max_pixels=32 * 40, crop_data_bar=False).height == 40


def test_the_limit_of_pixels_can_be_lowered_and_raised(tmp_path):
    (tmp_path / "image.tif").write_bytes(GOOD["tiff"])
    load_microstructure_data(tmp_path / "image.tif", max_pixels=64 * 72)
    with pytest.raises(MicrographError, match=r"limit of 4,607.*max_pixels"):
        load_microstructure_data(tmp_path / "image.tif", max_pixels=64 * 72 - 1)
    refused_cheaply(tmp_path, claiming_tiff(10**6, 10**6), "truncated", max_pixels=10**13)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 34925])
def test_a_claim_within_the_limit_that_the_file_cannot_hold_is_refused_without_allocating(tmp_path, compression):
    data = claiming_tiff(32768, 32768, bits=16, compression=compression)
    refused_cheaply(tmp_path, data, "truncated|exhaust memory")


def test_a_png_claiming_more_than_it_can_hold_is_refused_without_allocating(tmp_path):
    for side, message in ((2**20, "more than the limit"), (2**15, "cannot expand")):
        data = bytearray(GOOD["png"])
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        refused_cheaply(tmp_path, bytes(data), message)


def test_a_jpeg_claiming_more_than_it_can_hold_is_refused_without_allocating(tmp_path):
    data = bytearray(GOOD["jpeg"])
    start = data.index(b"\xff\xc0") + 5
    for side, message in ((65500, "more than the limit"), (30000, "cannot expand")):
        data[start : start + 4] = struct.pack(">HH", side, side)
        refused_cheaply(tmp_path, bytes(data), message)


def test_a_bmp_claiming_more_than_it_can_hold_is_refused_without_allocating(tmp_path):
    data = bytearray(GOOD["bmp"])
    for side, message in ((10**6, "more than the limit"), (30000, "truncated")):
        data[18:26] = struct.pack("<ii", side, side)
        refused_cheaply(tmp_path, bytes(data), message)


def test_thousands_of_channels_are_refused_without_allocating(tmp_path):
    refused_cheaply(tmp_path, claiming_tiff(30000, 30000, samples=65535), "65535 channels")


def test_a_pixel_of_more_bytes_than_the_temporary_volumes_count_on_is_refused(tmp_path):
    levels = np.random.default_rng(0).random((64, 64, 4))
    assert levels[0, 0].nbytes > MAX_PIXEL_BYTES
    (tmp_path / "a.tif").write_bytes(tiff(levels, photometric="rgb"))
    with pytest.raises(
        MicrographError, match=r"each of its pixels has 4 channels of 64 bits, .*; save it without alpha"
    ):
        load_microstructure_data(tmp_path / "a.tif")
    for allowed in (levels[..., :3], levels.astype(np.float32)):
        assert read(tmp_path, tiff(allowed, photometric="rgb")) is not None


def test_a_giant_tile_is_refused_without_allocating(tmp_path):
    extra = [(322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 64)]
    refused_cheaply(tmp_path, claiming_tiff(64, 64, compression=8, extra=extra), "tiles of 1048576x1048576")


def test_a_tile_that_claims_to_be_deep_is_refused_without_allocating(tmp_path):
    tile = [(322, 4, 1, 64), (323, 4, 1, 64), (324, 4, 1, 8), (325, 4, 1, 64), (32998, 4, 1, 2**20)]
    refused_cheaply(tmp_path, claiming_tiff(64, 64, compression=8, extra=tile), "the page holds a volume")


TOO_MUCH = r"one of its strips or tiles, of [\d,]+ pixels, would take [\d,]+ bytes of memory, .*; save it in strips"


@pytest.mark.parametrize(
    ("side", "options"),
    [
        (2**14 * 3 // 2, {"compression": 8}),
        (2**14 * 3 // 2, {"compression": 5}),
        (2**13, {"bits": 64, "samples": 2}),
        (2**13, {"bits": 32, "extra": [(322, 4, 1, 2**14), (323, 4, 1, 2**14), (324, 4, 1, 8), (325, 4, 1, 2**20)]}),
    ],
    ids=["deflate", "lzw", "64 bits", "tile"],
)
def test_a_strip_that_takes_too_much_memory_is_refused_without_allocating(tmp_path, side, options):
    options = {"compression": 50000, "stored": 2**20} | options
    refused_cheaply(tmp_path, claiming_tiff(side, side, **options), TOO_MUCH)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "lzma", "packbits", "jpeg", "jpeg2000", "png"])
def test_strips_of_every_codec_are_limited_by_the_memory_they_take(tmp_path, monkeypatch, compression):
    whole = tiff(compression=compression, rowsperstrip=64)
    assert read(tmp_path, whole) is not None
    monkeypatch.setattr("fusion_diff.micrograph.tiff.MAX_STRIP_BYTES", 64 * 72 * 2 - 1)
    with pytest.raises(MicrographError, match=TOO_MUCH):
        load_microstructure_data(tmp_path / "hostile.bin")
    assert read(tmp_path, tiff(compression=compression, rowsperstrip=2)) is not None
    assert read(tmp_path, tiff()) is not None


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [((4096, 4096), np.uint16, {"compression": "lzw"}), ((8192, 8192), np.uint8, {"compression": "zlib"})],
)
def test_usual_micrographs_in_a_single_strip_are_read_within_the_limits_of_the_service(tmp_path, shape, dtype, options):
    levels = np.zeros(shape, dtype)
    levels[::64] = 200
    data = tiff(levels, rowsperstrip=shape[0], predictor=True, byteorder=">", **options)
    micrograph = read(tmp_path, data, max_pixels=2**26, crop_data_bar=False)
    assert micrograph.shape == shape


def test_no_more_strips_are_decoded_at_once_than_fit_in_memory(tmp_path, monkeypatch):
    given = []
    asarray = tifffile.TiffPage.asarray

    def spied(page, **options):
        given.append(options["maxworkers"])
        return asarray(page, **options)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", spied)
    monkeypatch.setattr(tifffile.TIFF, "MAXWORKERS", 8)
    (tmp_path / "a.tif").write_bytes(tiff(np.tile(TEXTURE, (8, 8)), compression="zlib", rowsperstrip=64))
    memory = 2 * 64 * 72 * 8
    for most, workers in ((2**30, 8), (3 * memory, 3), (memory, 1)):
        monkeypatch.setattr("fusion_diff.micrograph.tiff.MAX_STRIP_BYTES", most)
        load_microstructure_data(tmp_path / "a.tif")
        assert given.pop() == workers


def test_a_tag_of_a_billion_values_is_refused_without_allocating(tmp_path):
    refused_cheaply(tmp_path, claiming_tiff(64, 64, extra=[(273, 4, 2**30, 8)]), "tag 273 claims")
    refused_cheaply(tmp_path, claiming_tiff(64, 64, extra=[(270, 2, 2**30, 8)]), "tag 270 claims")


@pytest.mark.parametrize(
    ("extra", "copies"),
    [((330, 4, 2**22), 3), ((305, 2, 2**25), 3), ((271, 2, 2**26 + 1), 1), ((273, 7, 2**26 + 1), 1)],
    ids=["repeated values", "repeated texts", "a text", "values of one byte"],
)
def test_tags_that_are_small_by_themselves_but_not_together_are_refused_without_allocating(tmp_path, extra, copies):
    """Tags may share their content, so a file of 16 megabytes took 5 gigabytes of memory."""
    data = claiming_tiff(64, 64, stored=64 * 64)
    tags = struct.unpack_from("<H", data, 8 + 64 * 64)[0]
    entries = [struct.unpack_from("<HHII", data, 10 + 64 * 64 + 12 * index) for index in range(tags)]
    entries = [entry for entry in entries if entry[0] != extra[0]]
    for number in (1, copies):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(data[: 8 + 64 * 64] + directory(entries + [(*extra, 8)] * number))
    refused_cheaply(tmp_path, path.read_bytes(), rf"its tags are too large \(tag {extra[0]} claims [\d,]+ values\)")
    if copies > 1:
        assert read(tmp_path, (tmp_path / "1.tif").read_bytes()) is not None


def test_a_tag_that_nothing_reads_may_have_any_size(tmp_path):
    (tmp_path / "a.tif").write_bytes(claiming_tiff(64, 64, stored=64 * 64, extra=[(37724, 7, 2**28, 8)]))
    assert load_microstructure_data(tmp_path / "a.tif").shape == (64, 64)


def test_missing_and_unwritten_strips_are_refused_as_truncated(tmp_path):
    for extra, message in (
        ([(278, 4, 1, 8)], "lists 1 of its 8 strips"),
        ([(279, 4, 1, 0)], "never written"),
        ([(273, 4, 1, 2**31)], "should end at byte"),
    ):
        compression = 8 if message == "never written" else 1
        refused_cheaply(tmp_path, claiming_tiff(64, 64, compression=compression, extra=extra), message)


def test_a_loop_of_directories_ends(tmp_path):
    pixels = TEXTURE.tobytes()
    entries = [
        (256, 4, 1, 72),
        (257, 4, 1, 64),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, len(pixels)),
    ]
    first = 8 + len(pixels)
    length = len(directory(entries))
    body = directory(entries, first + length) + directory(entries, first)
    path = tmp_path / "loop.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, first) + pixels + body)
    np.testing.assert_array_equal(load_microstructure_data(path, page=1).pixels, TEXTURE)
    with pytest.raises(MicrographError, match="it has 2 pages"):
        load_microstructure_data(path, page=2)


def test_a_missing_photometric_tag_means_that_high_is_bright(tmp_path):
    pixels = TEXTURE.tobytes()
    entries = [(256, 4, 1, 72), (257, 4, 1, 64), (258, 3, 1, 8), (273, 4, 1, 8), (279, 4, 1, len(pixels))]
    path = tmp_path / "plain.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory(entries))
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, TEXTURE)


def test_control_characters_in_a_name_do_not_reach_the_message(tmp_path):
    path = tmp_path / "red\x1b[31m\nalert.tif"
    path.write_bytes(b"nothing")
    with pytest.raises(MicrographError) as caught:
        load_microstructure_data(path)
    assert str(caught.value).isprintable()


def test_the_default_limit_holds_the_largest_micrographs():
    assert MAX_PIXELS >= 20_000**2


def test_chunks_without_content_before_the_pixel_size_of_a_png_are_not_followed_for_ever():
    chain = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sI", 0, b"teXt", 0) * (2**21)
    assert from_png(chain + struct.pack(">I4sIIBI", 9, b"pHYs", 10**6, 10**6, 1, 0)).pixel_size_um is None


@pytest.mark.parametrize("level", [3e38, 1e31])
def test_levels_that_single_precision_cannot_hold_apart_are_refused(level):
    """Every level is finite, but the difference of the extremes is not."""
    pixels = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    pixels[::8], pixels[1::8] = level, -level
    with pytest.raises(MicrographError, match=r"levels range from .*; replace"):
        Micrograph.from_array(pixels)


def test_levels_that_hardly_differ_are_no_contrast():
    pixels = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.float32) * np.float32(1e-40)
    with pytest.raises(MicrographError, match="the image has no contrast"):
        Micrograph.from_array(pixels)


@pytest.mark.parametrize("kind", ["palette", "jpeg", "bmp"])
def test_what_has_to_be_decoded_in_memory_is_refused_before_it_takes_too_much(tmp_path, monkeypatch, kind):
    levels = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
    file = tmp_path / {"palette": "a.png", "jpeg": "a.jpg", "bmp": "a.bmp"}[kind]
    picture = Image.fromarray(levels)
    (picture.convert("P") if kind == "palette" else picture).save(file)
    assert load_microstructure_data(file).shape[:2] == (64, 80)
    monkeypatch.setattr("fusion_diff.micrograph.limits.MAX_DECODED_BYTES", 64 * 80 * 7)
    with pytest.raises(MicrographError, match=r"in memory would take [\d,]+ bytes, more than .*; export it as TIFF"):
        load_microstructure_data(file)
