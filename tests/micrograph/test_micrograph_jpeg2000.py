"""JPEG 2000: the cost of a stream's parts is measured, streams that hide it are refused, ordinary ones are read."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.micrograph.jpeg2000 import jpeg2000_pixels

QCD = struct.pack(">HHBB", 0xFF5C, 4, 0x40, 0x40)


def segment(marker, content):
    return struct.pack(">HH", marker, len(content) + 2) + content


def siz(side, tile=None, components=1):
    tile = tile or side
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, components)
    return segment(0xFF51, size + b"\7\1\1" * components)


def cod(*, layers=1, levels=0, block=4, precincts=b""):
    style = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, 0, levels, block, block, 0, 1)
    return segment(0xFF52, style + precincts)


def coc(precincts):
    return segment(0xFF53, struct.pack(">BBBBBBB", 0, 1, 0, 4, 4, 0, 1) + precincts)


def stream(size, *, main=None, tile=b""):
    """An empty codestream of one tile-part, which OpenJPEG decodes to grey."""
    start = struct.pack(">HHHIBB", 0xFF90, 10, 0, 78 + len(tile), 0, 1)
    main = cod() + QCD if main is None else main
    return b"\xff\x4f" + size + main + start + tile + b"\xff\x93" + bytes(64) + b"\xff\xd9"


def box(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


def boxed(codestream, side, header=b""):
    size = struct.pack(">IIHBBBB", side, side, 1, 7, 7, 0, 0)
    boxes = (
        (b"jP  ", b"\r\n\x87\n"),
        (b"ftyp", b"jp2 \0\0\0\0jp2 "),
        (b"jp2h", box(b"ihdr", size) + box(b"colr", b"\1\0\0\0\0\0\x11") + header),
        (b"jp2c", codestream),
    )
    return b"".join(box(*one) for one in boxes)


def tiff(data, side):
    """A grey TIFF of one strip."""
    tags = {256: side, 257: side, 258: 8, 259: 34712, 262: 1, 273: 8, 277: 1, 278: side, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


TINY_PRECINCTS = b"\0"
HOSTILE = {
    "tiles": stream(siz(255, tile=1)),
    "tiles of many components": stream(siz(100, tile=1, components=40)),
    "precincts": stream(siz(1024), main=cod(precincts=TINY_PRECINCTS) + QCD),
    "layers": stream(siz(256), main=cod(layers=6000, precincts=TINY_PRECINCTS) + QCD),
    "precincts of one component": stream(siz(1024), main=cod() + coc(TINY_PRECINCTS) + QCD),
    "precincts of one tile": stream(siz(1024), tile=cod(precincts=TINY_PRECINCTS)),
    "precincts of a component in one tile": stream(siz(1024), tile=coc(TINY_PRECINCTS)),
    "code blocks": stream(siz(2048), main=cod(block=0) + QCD),
    "steps between precincts": stream(
        siz(2048, components=4), main=cod(levels=32, precincts=b"\xff" * 31 + b"\x1f\xf1")
    ),
    "in boxes": boxed(stream(siz(1024), main=cod(precincts=TINY_PRECINCTS) + QCD), 1024),
}
HIDDEN = {
    "size behind an unknown marker": b"\xff\x4f\xff\x30" + stream(siz(8000))[2:],
    "size behind an unknown marker in boxes": boxed(b"\xff\x4f\xff\x30" + stream(siz(8000))[2:], 8000),
    "size behind another segment": stream(segment(0xFF64, b"\0\1") + siz(8000)),
    "coding behind an unknown marker": stream(siz(1024), main=cod() + b"\xff\x30" + cod(precincts=TINY_PRECINCTS)),
    "a second size": stream(siz(64) + siz(8000)),
    "a palette": boxed(stream(siz(64)), 64, box(b"pclr", struct.pack(">HB", 1, 255) + b"\7" * 255 + bytes(255))),
    "a box of no length": struct.pack(">I4s", 0, b"free") + boxed(stream(siz(64)), 64),
    "no coding": stream(siz(64), main=QCD),
    "more tiles than there can be": stream(siz(60000, tile=1)),
    "tiles of no size": stream(siz(64).replace(struct.pack(">II", 64, 64) + bytes(8) + b"\0\1", bytes(16) + b"\0\1")),
    "a thousand codings": stream(siz(64), main=b"".join(coc(bytes([index])) for index in range(256)) + cod()),
    "nothing": b"",
}
REASONS = {
    "size behind an unknown marker": "it does not start with the size",
    "size behind an unknown marker in boxes": "it does not start with the size",
    "size behind another segment": "it does not start with the size",
    "coding behind an unknown marker": "it has a segment of an unknown kind",
    "a second size": "it has a segment of an unknown kind",
    "a palette": "it has a palette, which can expand one channel to 255",
    "a box of no length": "it has a box without a length",
    "no coding": "it has no coding style",
    "more tiles than there can be": "it has more tiles than the format allows",
    "tiles of no size": "its first tile is empty",
    "a thousand codings": "it has more than 64 coding styles",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_stream_of_far_too_many_parts_is_refused(tmp_path, kind):
    path = tmp_path / "parts.tif"
    path.write_bytes(tiff(HOSTILE[kind], 64))
    with pytest.raises(MicrographError, match=r"claim [\d,]+ pixels, or parts that take as much"):
        load_microstructure_data(path)


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_stream_that_hides_what_it_claims_is_refused_whatever_stands_behind_it(tmp_path, kind):
    path = tmp_path / "hidden.tif"
    for decoy in (b"", stream(siz(64))):
        if kind == "nothing" and decoy:
            continue
        path.write_bytes(tiff(HIDDEN[kind] + decoy, 64))
        why = "never written" if kind == "nothing" else rf"gives no reliable size \({REASONS[kind]}\)"
        with pytest.raises(MicrographError, match=why):
            load_microstructure_data(path)


def test_headers_that_hide_starts_of_further_headers_are_not_followed_over_and_over():
    """Each start led through all segments behind it, which took a minute for 128 KB."""
    hidden = segment(0xFF64, struct.pack(">HHHIBB", 0xFF90, 10, 0, 0, 0, 1))
    with pytest.raises(ValueError, match="it has headers within headers"):
        jpeg2000_pixels(stream(siz(64), tile=hidden * 100))
    assert jpeg2000_pixels(stream(siz(64), tile=segment(0xFF64, b"\0\1") * 1000)) == 64 * 64


def test_the_streams_of_this_module_are_decoded_where_they_are_small():
    for data in (stream(siz(64)), boxed(stream(siz(64)), 64), stream(siz(64), tile=cod() + coc(b"\x77"))):
        assert jpeg2000_pixels(data) == 64 * 64
        assert imagecodecs.jpeg2k_decode(data).shape == (64, 64)


def test_what_stands_behind_the_codestream_is_of_no_account():
    assert jpeg2000_pixels(boxed(stream(siz(64)), 64) + stream(siz(8000))) == 64 * 64


def encoded(levels, **options):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG2000", **options)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(96, 300),
    colour=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "num_resolutions": st.integers(1, 6),
            "progression": st.sampled_from(["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"]),
        },
        optional={
            "tile_size": st.sampled_from([(64, 64), (128, 128), (256, 256), (96, 160)]),
            "precinct_size": st.sampled_from([(64, 64), (128, 128), (256, 128)]),
            "codeblock_size": st.sampled_from([(16, 16), (32, 32), (64, 64), (64, 16)]),
            "quality_layers": st.sampled_from([[6], [12, 6, 3], list(range(24, 2, -2))]),
            "irreversible": st.booleans(),
            "no_jp2": st.booleans(),
        },
    ),
)
def test_ordinary_streams_are_read_whatever_their_options(tmp_path_factory, side, colour, options):
    levels = np.random.default_rng(side).integers(0, 256, (side, side, 3) if colour else (side, side), dtype=np.uint8)
    data = encoded(levels, **options)
    assert side**2 <= jpeg2000_pixels(data) < 4 * side**2  # four times the pixels is the limit for large images
    expected = np.asarray(Image.open(io.BytesIO(data)))
    if not colour and np.ptp(expected):  # few bits keep little of the noise
        path = tmp_path_factory.mktemp("ordinary") / "a.tif"
        path.write_bytes(tiff(data, side))
        np.testing.assert_array_equal(load_microstructure_data(path).levels, expected)


@pytest.mark.parametrize("options", [{}, {"level": 60}, {"resolutions": 3}, {"codecformat": "j2k", "mct": False}])
def test_what_tifffile_writes_comes_out_at_its_pixels(options):
    levels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert jpeg2000_pixels(imagecodecs.jpeg2k_encode(levels, **options)) == 128 * 128
    assert jpeg2000_pixels(imagecodecs.jpeg2k_encode(levels.astype(np.uint16) * 257, **options)) == 128 * 128


def test_a_large_stream_in_tiles_is_read(tmp_path):
    levels = np.zeros((4096, 4096), np.uint8)
    levels[::64] = 255
    data = encoded(levels, tile_size=(256, 256), num_resolutions=6)
    assert jpeg2000_pixels(data) == levels.size
    (tmp_path / "a.tif").write_bytes(tiff(data, 4096))
    np.testing.assert_array_equal(load_microstructure_data(tmp_path / "a.tif").levels, levels)
