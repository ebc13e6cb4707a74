"""Compressed streams that claim or cost far more than their place in the image are refused."""

import functools
import io
import struct
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.micrograph.codestream import (
    MAX_EXIF_SEGMENTS,
    MAX_JPEG_SCANS,
    MAX_JPEG_SEGMENTS,
    codestream_pixels,
)

BLANK = np.zeros((4500, 8000), np.uint8)
TEXTURE = np.random.default_rng(0).integers(0, 256, (64, 72), dtype=np.uint8)
COMMENT = b"\xff\xfe" + struct.pack(">H", 5000) + bytes(4998)


def jpeg2000_in_boxes(levels):
    """A JPEG 2000 file with a small decoy codestream in a box before the real one."""
    decoy = imagecodecs.jpeg2k_encode(TEXTURE, codecformat="j2k")
    real = imagecodecs.jpeg2k_encode(levels, codecformat="jp2")
    return real[:12] + struct.pack(">I4s", len(decoy) + 8, b"free") + decoy + real[12:]


def after_start(stream, inserted):
    return stream[:2] + inserted + stream[2:]


def tiled(stream, compression, *, side=(64, 64), tile=(64, 64), number=1, tables=b"", counts=None):
    """A grey TIFF whose tiles all refer to the same stream."""
    at = 8 + len(stream) + len(tables)
    lists = struct.pack(f"<{2 * number}I", *[8] * number, *(counts or [len(stream)] * number))
    entries = {
        256: (4, 1, side[1]),
        257: (4, 1, side[0]),
        258: (3, 1, 8),
        259: (3, 1, compression),
        262: (3, 1, 1),
        277: (3, 1, 1),
        322: (4, 1, tile[1]),
        323: (4, 1, tile[0]),
        324: (4, number, at if number > 1 else 8),
        325: (4, number, at + 4 * number if number > 1 else len(stream)),
    }
    if tables:
        entries[347] = (7, len(tables), 8 + len(stream))
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", code, *rest) for code, rest in sorted(entries.items()))
    start = at + len(lists)
    return struct.pack("<2sHI", b"II", 42, start) + stream + tables + lists + directory + bytes(4)


STREAMS = {
    "jpeg": (7, imagecodecs.jpeg_encode),
    "lossless jpeg": (7, imagecodecs.ljpeg_encode),
    "png": (34933, imagecodecs.png_encode),
    "jpeg 2000": (34712, imagecodecs.jpeg2k_encode),
    "jpeg 2000 behind a decoy": (34712, jpeg2000_in_boxes),
    "jpeg behind a comment": (7, lambda levels: after_start(imagecodecs.jpeg_encode(levels), COMMENT)),
    "jpeg behind fill bytes": (7, lambda levels: after_start(imagecodecs.jpeg_encode(levels), b"\xff" * 7)),
}


@functools.cache
def bomb(kind):
    compression, encode = STREAMS[kind]
    return tiled(encode(BLANK), compression)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("shape", [(64, 64), (64, 72), (300, 77), (45, 1000)])
def test_the_size_that_a_stream_claims_is_found_whatever_stands_before_it(kind, shape):
    compression, encode = STREAMS[kind]
    levels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert codestream_pixels(encode(levels), compression) == levels.size


@pytest.mark.parametrize(
    ("compression", "data", "why"),
    [
        (7, b"", "it claims no pixels"),
        (7, b"rubbish", "it claims no pixels"),
        (7, b"\xff\xd8\xff\xd9", "it claims no pixels"),
        (7, b"\xff\xd8\xff\xc0\0\x11\x08\0", "it is truncated"),
        (34933, b"rubbish", "it is truncated"),
        (34933, bytes(100), "it claims no pixels"),
        (34712, b"", "it is truncated"),
        (34712, bytes(100), "it has a box without a length"),
        (34712, b"\xff\x4f\xff\x51", "it is truncated"),
    ],
)
def test_where_no_size_is_found_the_reason_is_given(tmp_path, compression, data, why):
    with pytest.raises(ValueError, match=f"^{why}$"):
        codestream_pixels(data, compression)
    path = tmp_path / "none.tif"
    path.write_bytes(tiled(data or b"\0", compression))
    with pytest.raises(MicrographError, match=rf"none\.tif: the header of a strip .* no reliable size \({why}\); copy"):
        load_microstructure_data(path)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_tile_that_unfolds_to_far_more_than_its_place_is_refused(tmp_path, kind):
    path = tmp_path / "bomb.tif"
    path.write_bytes(bomb(kind))
    with pytest.raises(
        MicrographError, match=r"bomb\.tif: the headers of its strips or tiles claim [\d,]+ pixels, or parts .*; export"
    ):
        load_microstructure_data(path)


def test_tables_of_a_jpeg_that_hold_an_image_of_their_own_are_measured_too(tmp_path):
    path = tmp_path / "tables.tif"
    path.write_bytes(tiled(imagecodecs.jpeg_encode(TEXTURE[:, :64]), 7, tables=imagecodecs.jpeg_encode(BLANK)))
    with pytest.raises(MicrographError, match="claim 36,000,000 pixels, or parts"):
        load_microstructure_data(path)


def test_many_tiles_that_are_one_large_stream_are_refused(tmp_path):
    path = tmp_path / "many.tif"
    stream = imagecodecs.png_encode(BLANK[:3000, :3000])
    path.write_bytes(tiled(stream, 34933, side=(256, 256), tile=(16, 16), number=256))
    with pytest.raises(MicrographError, match="claim 18,000,000 pixels, or parts"):
        load_microstructure_data(path)


def test_tiles_of_which_next_to_nothing_lies_in_the_image_are_refused(tmp_path):
    path = tmp_path / "long.tif"
    path.write_bytes(tiled(imagecodecs.zlib_encode(bytes(2**23)), 8, side=(32, 64), tile=(2**23, 1), number=64))
    with pytest.raises(MicrographError, match="claims 64 tiles of 1x8388608 pixels"):
        load_microstructure_data(path)


def test_tiles_that_overlap_many_times_are_refused(tmp_path):
    path = tmp_path / "overlap.tif"
    path.write_bytes(tiled(bytes(2**20), 8, side=(256, 256), tile=(16, 16), number=256))
    with pytest.raises(MicrographError, match="overlap many times"):
        load_microstructure_data(path)


def test_equal_tiles_may_be_stored_once(tmp_path):
    path = tmp_path / "shared.tif"
    tile = imagecodecs.png_encode(TEXTURE[:16, :16])
    path.write_bytes(tiled(tile, 34933, side=(64, 64), tile=(16, 16), number=16))
    np.testing.assert_array_equal(load_microstructure_data(path).levels, np.tile(TEXTURE[:16, :16], (4, 4)))


def progressive(scans):
    """A progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    Image.fromarray(TEXTURE).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    path = tmp_path / "scans.jpg"
    path.write_bytes(progressive(MAX_JPEG_SCANS))
    assert load_microstructure_data(path).shape == TEXTURE.shape
    path.write_bytes(tiled(progressive(MAX_JPEG_SCANS), 7, side=(64, 72), tile=(64, 72)))
    assert load_microstructure_data(path).shape == TEXTURE.shape
    path.write_bytes(progressive(MAX_JPEG_SCANS + 1))
    with pytest.raises(MicrographError, match=r"scans\.jpg: its JPEG data have more than 32 scans"):
        load_microstructure_data(path)
    path.write_bytes(tiled(progressive(MAX_JPEG_SCANS + 1), 7, side=(64, 72), tile=(64, 72)))
    with pytest.raises(MicrographError, match="more than 32 scans"):
        load_microstructure_data(path)


def test_what_looks_like_scans_in_or_behind_a_jpeg_is_not_counted(tmp_path):
    path = tmp_path / "behind.jpg"
    marks = b"\xff\xda\0\2" * 100
    data = progressive(10)
    path.write_bytes(after_start(data, b"\xff\xfe" + struct.pack(">H", len(marks) + 2) + marks) + marks)
    np.testing.assert_array_equal(load_microstructure_data(path).levels, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("segment", "most", "kind"),
    [
        (b"\xff\xe1\0\x0aExif\0\0II", MAX_EXIF_SEGMENTS, "64 EXIF segments"),
        (b"\xff\xe2\0\2", MAX_JPEG_SEGMENTS - 100, "4,096 segments"),
    ],
)
def test_a_jpeg_of_thousands_of_segments_is_refused(tmp_path, segment, most, kind):
    path = tmp_path / "segments.jpg"
    data = imagecodecs.jpeg_encode(TEXTURE)
    path.write_bytes(after_start(data, segment * most))
    assert load_microstructure_data(path).shape == TEXTURE.shape
    path.write_bytes(after_start(data, segment * (most + 100)))
    with pytest.raises(MicrographError, match=f"have more than {kind}, .*; get a fresh copy"):
        load_microstructure_data(path)


def test_a_jpeg_with_a_large_colour_profile_is_read(tmp_path):
    profile = np.random.default_rng(3).integers(0, 256, 2**23, dtype=np.uint8).tobytes()
    Image.fromarray(TEXTURE).save(tmp_path / "profile.jpg", icc_profile=profile)
    assert load_microstructure_data(tmp_path / "profile.jpg").shape == TEXTURE.shape


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "png", "zlib", "zstd", "lzma"])
def test_an_honest_file_of_many_tiles_is_read(tmp_path, compression):
    path = tmp_path / "tiles.tif"
    levels = np.random.default_rng(2).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    tifffile.imwrite(path, levels, photometric="rgb", compression=compression, tile=(32, 32))
    assert load_microstructure_data(path).shape == levels.shape


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is bounded on Linux alone")
def test_bombs_of_every_codec_are_refused_within_little_memory(tmp_path):
    for index, kind in enumerate(STREAMS):
        (tmp_path / f"{index}.tif").write_bytes(bomb(kind))
    program = (
        "import sys; from fusion_diff.micrograph import load_microstructure_data as load\n"
        "import resource, tifffile, imagecodecs\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(path)\n"
        "    except ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < BLANK.size
