import errno
import hashlib
import io
import os
import struct
import tempfile
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

import fusion_diff.micrograph.source as source
import fusion_diff.micrograph.storage as storage
from fusion_diff.errors import MicrographError, NoRoomError
from fusion_diff.micrograph import Micrograph, load_microstructure_data

SIDE = 6000


@pytest.fixture(scope="module")
def large_tiff(tmp_path_factory):
    """An uncompressed 6000 x 6000 16-bit TIFF (72 MB) with a ramp in each row."""
    path = tmp_path_factory.mktemp("large") / "large.tif"
    levels = tifffile.memmap(path, shape=(SIDE, SIDE), dtype=np.uint16)
    levels[:] = np.arange(SIDE, dtype=np.uint16)
    levels[:, 7] = np.arange(SIDE, dtype=np.uint16)
    levels.flush()
    del levels
    return path


def test_a_large_tiff_is_mapped_and_read_by_window_in_bounded_memory(large_tiff):
    load_microstructure_data(large_tiff, max_pixels=SIDE**2)  # imports are not measured
    tracemalloc.start()
    try:
        micrograph = load_microstructure_data(large_tiff)
        low, high = micrograph.contrast_range
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        window = micrograph.window(5000, 0, 256, 300)
        windowed = tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert storage.file_behind(micrograph.levels) is not None
    assert micrograph.dtype == np.uint16
    assert read < 120 * 2**20  # the sub-grid in float64 and one band; the float32 image would take 144 MB
    assert windowed < 2**20
    assert (low, high) == pytest.approx((SIDE * 0.005, SIDE * 0.995), rel=0.01)
    np.testing.assert_array_equal(
        window[:, 6:9], np.stack([np.full(256, 6), np.arange(5000, 5256), np.full(256, 8)], 1)
    )


def test_a_mapped_micrograph_is_read_only(large_tiff):
    micrograph = load_microstructure_data(large_tiff)
    with pytest.raises(ValueError, match="read-only"):
        micrograph.levels[0, 0] = 1


def test_a_large_compressed_tiff_is_decoded_to_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1000)
    levels = np.random.default_rng(0).integers(0, 65536, (90, 80), dtype=np.uint16)
    for options in ({"compression": "zlib"}, {"photometric": "miniswhite"}, {"compression": "lzw", "predictor": True}):
        tifffile.imwrite(tmp_path / "image.tif", levels, **options)
        micrograph = load_microstructure_data(tmp_path / "image.tif")
        assert storage.file_behind(micrograph.levels) is not None
        expected = 65535.0 - levels if "photometric" in options else levels
        np.testing.assert_array_equal(micrograph.pixels, expected)


def test_how_large_an_image_is_counts_in_bytes_and_not_in_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 2 * 90 * 80)
    for dtype, large in ((np.uint8, False), (np.uint16, False), (np.float32, True), (np.float64, True)):
        levels = np.random.default_rng(0).integers(0, 256, (90, 80)).astype(dtype)
        tifffile.imwrite(tmp_path / "image.tif", levels, compression="zlib")
        micrograph = load_microstructure_data(tmp_path / "image.tif")
        assert (storage.file_behind(micrograph.levels) is not None) == large, dtype
        np.testing.assert_array_equal(micrograph.pixels, levels)


def test_levels_that_are_moved_to_a_file_are_the_same_and_are_moved_once():
    levels = np.random.default_rng(0).integers(0, 65536, (90, 80, 3), dtype=np.uint16)
    moved = storage.spilled(levels[..., ::-1])
    assert storage.file_behind(moved) is not None
    np.testing.assert_array_equal(moved, levels[..., ::-1])
    assert storage.spilled(moved[3:]).base is moved


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_large_png_is_decoded_to_a_temporary_file(tmp_path, monkeypatch, channels):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    levels = np.random.default_rng(0).integers(0, 65536, (90, 80, channels), dtype=np.uint16)
    (tmp_path / "image.png").write_bytes(imagecodecs.png_encode(levels if channels > 1 else levels[..., 0]))
    micrograph = load_microstructure_data(tmp_path / "image.png")
    assert storage.file_behind(micrograph.levels) is not None
    np.testing.assert_array_equal(micrograph.pixels, levels[..., 0] if channels < 3 else levels[..., :3])


@pytest.mark.parametrize("key", [(5,), (5, 6, 7), (5, 6)], ids=["grey", "colour", "of a wrong length"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_png_of_which_one_colour_is_transparent_is_read_as_it_is(tmp_path, monkeypatch, key, dtype):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1000)
    levels = np.random.default_rng(0).integers(0, 10, (90, 80, 3), dtype=dtype)
    levels = levels[..., 0].copy() if len(key) == 1 else levels
    plain = imagecodecs.png_encode(levels)
    body = b"tRNS" + struct.pack(f">{len(key)}H", *key)
    chunk = struct.pack(">I", 2 * len(key)) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "image.png").write_bytes(plain[:33] + chunk + plain[33:])
    micrograph = load_microstructure_data(tmp_path / "image.png")
    assert storage.file_behind(micrograph.levels) is not None
    np.testing.assert_array_equal(micrograph.pixels, levels)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"planarconfig": "separate"}, {"tile": (16, 16)}])
def test_a_mapped_file_gives_the_same_micrograph_as_one_in_memory(tmp_path, monkeypatch, options):
    shape = (3, 64, 80) if "planarconfig" in options else (64, 80, 3)
    levels = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", levels, photometric="rgb", **options)
    small = load_microstructure_data(tmp_path / "image.tif")
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(storage, "BAND_PIXELS", 500)
    large = load_microstructure_data(tmp_path / "image.tif")
    np.testing.assert_array_equal(large.pixels, small.pixels)
    np.testing.assert_array_equal(large.window(3, 5, 9, 11), small.pixels[3:12, 5:16])
    assert (large.sha256, large.contrast_range) == (small.sha256, small.contrast_range)


def test_every_page_of_a_mapped_stack_is_that_page(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    stack = np.random.default_rng(0).integers(0, 65536, (3, 40, 50), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    for page in range(3):
        micrograph = load_microstructure_data(tmp_path / "stack.tif", page=page)
        assert storage.file_behind(micrograph.levels) is not None
        np.testing.assert_array_equal(micrograph.pixels, stack[page])


@pytest.mark.parametrize("most_in_memory", [0, 2**20])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, most_in_memory):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", most_in_memory)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    opened = source._open_regular

    def growing(*arguments):
        file = opened(*arguments)

        def read(*size):
            with path.open("ab") as writer:
                if writer.tell() < 10_000:
                    writer.write(b"more")
            return type(file).read(file, *size)

        file.read = read
        return file

    monkeypatch.setattr(source, "_open_regular", growing)
    with pytest.raises(MicrographError, match="changed while it was being read"):
        load_microstructure_data(path)


def test_a_full_temporary_folder_is_named_with_the_cure(no_room):
    no_room()
    with pytest.raises(MicrographError, match="TMPDIR") as caught:
        storage.allocate((2**14, 2**14), np.uint8)
    assert tempfile.gettempdir() in str(caught.value)


def test_a_map_that_no_address_space_is_left_for_is_told_like_a_full_folder(monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(np, "memmap", no_space)
    with pytest.raises(MicrographError, match="Cannot allocate memory"):
        storage.allocate((64, 64), np.uint8)


def test_giving_pages_back_changes_nothing(tmp_path):
    levels = np.memmap(tmp_path / "levels", np.uint8, "w+", shape=(64, 64))
    levels[:] = np.arange(64)
    storage.release(levels[::2, 3:])
    storage.release(np.ones(3))
    np.testing.assert_array_equal(levels, np.tile(np.arange(64), (64, 1)))


def test_bands_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(storage, "BAND_PIXELS", 100)
    for shape in ((1, 1), (7, 30), (50, 9, 3), (3, 1000)):
        rows = np.concatenate([np.arange(shape[0])[band] for band in storage.bands(shape)])
        np.testing.assert_array_equal(rows, np.arange(shape[0]))


def test_a_large_array_is_looked_through_in_bands(monkeypatch):
    monkeypatch.setattr(storage, "BAND_PIXELS", 100)
    levels = np.random.default_rng(0).normal(size=(64, 48))
    np.testing.assert_array_equal(Micrograph.from_array(levels).pixels, levels.astype(np.float32))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"photometric": "miniswhite"}])
@pytest.mark.parametrize("signed", [False, True])
def test_a_micrograph_is_independent_of_its_file_once_it_is_read(tmp_path, monkeypatch, options, signed):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    file = tmp_path / "image.tif"
    levels = np.random.default_rng(0).integers(1, 256, (64, 80), dtype=np.uint8)
    tifffile.imwrite(file, levels, **options)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    micrograph = load_microstructure_data(file, sha256=digest if signed else None)
    seen = micrograph.window(0, 0, 64, 80)
    with file.open("r+b") as stream:  # in place, like anyone with write access
        stream.write(bytes(file.stat().st_size))
    np.testing.assert_array_equal(micrograph.window(0, 0, 64, 80), seen)
    with file.open("r+b") as stream:  # truncating a mapped file would kill the process
        stream.truncate(10)
    np.testing.assert_array_equal(micrograph.window(0, 0, 64, 80), seen)
    assert micrograph.sha256 == digest


def test_no_room_for_the_copy_of_a_large_file_is_told_with_the_cure(tmp_path, monkeypatch, no_room):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    no_room()
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, np.zeros((64, 80), dtype=np.uint8))
    with pytest.raises(MicrographError, match=r"copy of .*image\.tif in .*TMPDIR"):
        load_microstructure_data(file)


def test_a_machine_without_a_temporary_folder_is_not_told_as_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, np.zeros((64, 80), dtype=np.uint8))
    with pytest.raises(
        NoRoomError, match=r"^cannot store .*image\.tif in the temporary folder .*No usable temporary .*TMPDIR"
    ):
        load_microstructure_data(file)


def test_a_disk_that_fills_up_while_a_file_is_copied_is_told_with_the_cure(monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    copy = Full()
    monkeypatch.setattr(storage, "_reserved", lambda size: copy)
    with pytest.raises(MicrographError, match=r"no room for 5 bytes of a copy in .*TMPDIR"):
        storage.copied(io.BytesIO(b"bytes"), 5, "a copy")
    assert copy.closed


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no room for 5 bytes of a copy in .*free space there"),
        (errno.EDQUOT, "no room for 5 bytes of a copy in .*free space there"),
        (errno.EACCES, "^cannot store 5 bytes of a copy in .*Permission denied.*can be written to, or set TMPDIR"),
        (errno.EMFILE, "^cannot store 5 bytes of a copy in .*Too many open files"),
        (errno.EIO, "^cannot store 5 bytes of a copy in .*Input/output error"),
    ],
)
def test_only_a_full_disk_is_called_full(monkeypatch, number, told):
    def fail(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(NoRoomError, match=told) as raised:
        storage.copied(io.BytesIO(b"bytes"), 5, "a copy")
    assert raised.value.__cause__.errno == number, "by which the service tells its status"
