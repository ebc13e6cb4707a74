import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.micrograph.calibration import instrument_name, micrometres, square_pixel

TEXTURE = np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)
BARRED = np.vstack([TEXTURE[:80], np.zeros((16, 128), np.uint8)])
BARRED[83:93:2, 8:120:4] = 255
REPEATED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

FEI = """[System]\r\nType=SEM\r\nSystemType=Helios NanoLab\r\n[Image]\r\nResolutionX=128\r\nResolutionY=84\r\n
[Scan]\r\nPixelWidth={width}\r\nPixelHeight={height}\r\n[PrivateFei]\r\nDatabarHeight=12\r\n"""
ZEISS = """0\r\n0\r\n0\r\n5e-009\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {size}\r\n
DP_IMAGE_STORE\r\nStore resolution = 128 * 96\r\nSV_SERIAL_NUMBER\r\nSerial No. = SUPRA 55-1\r\n"""


def tagged(path, code, text, levels=TEXTURE):
    """Write a TIFF with a maker's metadata text in a private tag."""
    data = text.encode("cp1252") + b"\0"
    kind = "B" if code == 34118 else "s"
    tifffile.imwrite(path, levels, extratags=[(code, kind, len(data), data, True)], metadata=None)
    return load_microstructure_data(path)


def test_fei_metadata_give_pixel_size_instrument_and_the_true_height(tmp_path):
    text = FEI.format(width=2.5e-9, height=2.5e-9).replace("ResolutionY=84", "ResolutionY=80")
    micrograph = tagged(tmp_path / "fei.tif", 34682, text, BARRED)
    assert micrograph.pixel_size_um == pytest.approx(0.0025)
    assert micrograph.instrument == "Thermo/FEI Helios NanoLab"
    assert (micrograph.data_bar_px, micrograph.shape) == (16, (80, 128))
    np.testing.assert_array_equal(micrograph.pixels, TEXTURE[:80])
    assert micrograph.notes == ("A data bar of 16 rows was cropped from the bottom.",)


def test_a_true_height_of_the_metadata_cuts_off_nothing_that_is_no_bar(tmp_path):
    micrograph = tagged(tmp_path / "fei.tif", 34682, FEI.format(width=2.5e-9, height=2.5e-9))
    assert (micrograph.data_bar_px, micrograph.shape) == (0, (96, 128))
    assert micrograph.notes == (
        "Its metadata claim that the lowest 12 rows are a data bar, but they do not look like one.",
    )


def test_the_true_height_of_the_metadata_is_left_alone_when_the_bar_is_to_stay(tmp_path):
    tagged(tmp_path / "fei.tif", 34682, FEI.format(width=2.5e-9, height=2.5e-9).replace("Y=84", "Y=80"), BARRED)
    whole = load_microstructure_data(tmp_path / "fei.tif", crop_data_bar=False)
    assert whole.shape == (96, 128)
    assert "data bar" not in " ".join(whole.notes)


@pytest.mark.parametrize(("was", "now"), [("[Scan]", "[EScan]"), ("[Scan]", "[IScan]"), ("ResolutionX=128\r\n", "")])
def test_other_beams_and_fei_metadata_without_the_width_give_pixel_size_too(tmp_path, was, now):
    text = FEI.format(width=2.5e-9, height=2.5e-9)
    assert was in text
    assert tagged(tmp_path / "fei.tif", 34682, text.replace(was, now)).pixel_size_um == pytest.approx(0.0025)


def test_the_older_name_of_the_pixel_size_of_zeiss_metadata_is_known(tmp_path):
    text = ZEISS.format(size="12.5 nm").replace("AP_IMAGE_PIXEL_SIZE", "AP_PIXEL_SIZE")
    assert tagged(tmp_path / "zeiss.tif", 34118, text).pixel_size_um == pytest.approx(0.0125)


def test_fei_metadata_of_another_resolution_describe_other_pixels(tmp_path):
    text = FEI.format(width=2.5e-9, height=2.5e-9).replace("ResolutionX=128", "ResolutionX=1024")
    micrograph = tagged(tmp_path / "fei.tif", 34680, text)
    assert (micrograph.pixel_size_um, micrograph.data_bar_px) == (None, 0)


@pytest.mark.parametrize(
    ("written", "expected"), [("12.5 nm", 0.0125), ("1.5 µm", 1.5), ("250 pm", 0.00025), ("7 parsec", 0.005)]
)
def test_zeiss_metadata_give_pixel_size_and_instrument(tmp_path, written, expected):
    micrograph = tagged(tmp_path / "zeiss.tif", 34118, ZEISS.format(size=written))
    assert micrograph.pixel_size_um == pytest.approx(expected)  # with an unknown unit, the unnamed number is used
    assert micrograph.instrument == "Zeiss SEM SUPRA 55-1"


def test_the_stored_resolution_of_zeiss_metadata_gives_the_true_height(tmp_path):
    text = ZEISS.format(size="1 nm").replace("128 * 96", "128 * 80")
    assert tagged(tmp_path / "zeiss.tif", 34118, text, BARRED).shape == (80, 128)


def test_zeiss_metadata_of_another_width_describe_other_pixels(tmp_path):
    text = ZEISS.format(size="1 nm").replace("128 * 96", "256 * 192")
    micrograph = tagged(tmp_path / "zeiss.tif", 34118, text)
    assert (micrograph.pixel_size_um, micrograph.data_bar_px) == (None, 0)
    assert micrograph.instrument == "Zeiss SEM SUPRA 55-1"


@pytest.mark.parametrize(("lines", "instrument"), [(1000, "Zeiss SEM SUPRA 55-1"), (10_000, None)])
def test_zeiss_metadata_of_far_too_many_lines_are_ignored(tmp_path, lines, instrument):
    """tifffile takes time by the square of their number, minutes for a file of one megabyte."""
    micrograph = tagged(tmp_path / "zeiss.tif", 34118, ZEISS.format(size="1 nm") + "0\r\n" * lines)
    assert micrograph.instrument == instrument


@pytest.mark.parametrize(
    ("code", "text"), [(34682, FEI.format(width=1e-8, height=1e-8)), (270, "ImageJ=1.0\nunit=um\n"), (271, "Acme ")]
)
def test_metadata_that_are_far_too_long_are_ignored(tmp_path, code, text):
    options = {"resolution": (2, 2), "resolutionunit": "NONE"}
    for lines, known in ((10, True), (2**20, False)):
        data = text.encode() + b";\n" * lines
        tifffile.imwrite(
            tmp_path / "a.tif", TEXTURE, extratags=[(code, "s", len(data), data, True)], metadata=None, **options
        )
        micrograph = load_microstructure_data(tmp_path / "a.tif")
        assert (micrograph.instrument is not None or micrograph.pixel_size_um is not None) == known


def test_olympus_sis_metadata_give_pixel_size(tmp_path):
    body = struct.pack("<10xhdd8xd2x34s32s", -6, 0.5, 0.5, 1000.0, b"ColorView", b"")
    header = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 0, 1, 0, 120, b"name", 1)
    data = header + struct.pack("<hhI", 1, 1, 0) + body
    path = tmp_path / "sis.tif"
    tifffile.imwrite(path, TEXTURE, extratags=[(33560, "B", len(data), data, True)], metadata=None)
    content = bytearray(path.read_bytes())
    start = content.index(b"SIS0")
    content[start + 64 : start + 68] = struct.pack("<I", start + 68)  # position of the body in the file
    path.write_bytes(content)
    micrograph = load_microstructure_data(path)
    assert micrograph.pixel_size_um == pytest.approx(0.5)
    assert micrograph.instrument == "Olympus SIS ColorView"


def test_tvips_metadata_give_pixel_size(tmp_path):
    first = np.zeros(1, np.dtype(tifffile.TIFF.TVIPS_HEADER_V1).newbyteorder("<"))
    second = np.zeros(1, np.dtype(tifffile.TIFF.TVIPS_HEADER_V2).newbyteorder("<"))
    first["Version"] = 2
    second["PixelSizeX"] = second["PixelSizeY"] = 0.25
    second["Magic"] = 0xAAAAAAAA
    data = first.tobytes() + second.tobytes()
    path = tmp_path / "tvips.tif"
    tifffile.imwrite(path, TEXTURE, extratags=[(37706, "B", len(data), data, True)], metadata=None)
    assert load_microstructure_data(path).pixel_size_um == pytest.approx(0.00025)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("pixel", None)])
def test_ome_metadata_give_pixel_size_in_their_unit(tmp_path, unit, factor):
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "image.ome.tif", TEXTURE, ome=True, metadata=metadata)
    size = load_microstructure_data(tmp_path / "image.ome.tif").pixel_size_um
    assert size == (None if factor is None else pytest.approx(0.5 * factor))


def ome(path, text):
    tifffile.imwrite(path, TEXTURE, description=text, metadata=None)
    return load_microstructure_data(path)


OME = """{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0">
<Microscope Manufacturer="Keyence" Model="VHX"/></Instrument><Image ID="Image:0"><Pixels SizeX="64" SizeY="48"
PhysicalSizeX="9"/></Image><Image ID="Image:1"><Pixels SizeX="128" SizeY="96" PhysicalSizeX="{size}"/></Image></OME>"""


def test_ome_metadata_name_the_microscope_and_the_image_of_this_size(tmp_path):
    micrograph = ome(tmp_path / "image.tif", OME.format(head='<?xml version="1.0"?>', size="0.75"))
    assert (micrograph.pixel_size_um, micrograph.instrument) == (0.75, "Keyence VHX")


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE OME [<!ENTITY s "0.75">]>',
        '<!DOCTYPE OME SYSTEM "file:///etc/passwd">',
        "<!DOCTYPE o [" + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 20}">' for i in range(1, 20)) + "]>",
    ],
)
def test_ome_metadata_with_a_document_type_are_ignored_unexpanded(tmp_path, head):
    tracemalloc.start()
    micrograph = ome(tmp_path / "image.tif", OME.format(head=head, size="&s;"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (micrograph.pixel_size_um, micrograph.instrument) == (None, None)
    assert peak < 2**26


@pytest.mark.parametrize("text", ["<OME>", "<OME></OME", "<OME/>", "<a>" * 20000 + "</a>" * 20000 + "<!--OME>"])
def test_malformed_ome_metadata_are_ignored(tmp_path, text):
    assert ome(tmp_path / "image.tif", text).pixel_size_um is None


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("um", 0.5),
        ("micron", 0.5),
        (r"\u00B5m", 0.5),
        ("nm", 0.0005),
        ("mm", 500),
        ("cm", 5000),
        ("inch", None),
        ("pixel", None),
        ("furlong", None),
    ],
)
def test_imagej_metadata_give_pixel_size_in_their_unit(tmp_path, unit, expected):
    tifffile.imwrite(tmp_path / "ij.tif", TEXTURE, imagej=True, resolution=(2, 2), metadata={"unit": unit})
    size = load_microstructure_data(tmp_path / "ij.tif").pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected))


def test_a_print_resolution_in_inches_that_imagej_passes_on_is_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "ij.tif", TEXTURE, imagej=True, resolution=(300, 300), metadata={"unit": "inch"})
    assert load_microstructure_data(tmp_path / "ij.tif").pixel_size_um is None


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("INCH", 72, None),
        ("INCH", 96, None),
        ("INCH", 300, None),
        ("INCH", 600, None),
        ("INCH", 1000, None),
        ("INCH", 1050, 25400 / 1050),
        ("INCH", 2400, 25400 / 2400),
        ("CENTIMETER", 20000, 0.5),
        ("CENTIMETER", 28.35, None),
        ("NONE", 20000, None),
    ],
)
def test_plain_resolution_tags_count_only_where_they_cannot_be_meant_for_print(tmp_path, unit, resolution, expected):
    tifffile.imwrite(tmp_path / "image.tif", TEXTURE, resolution=(resolution, resolution), resolutionunit=unit)
    size = load_microstructure_data(tmp_path / "image.tif").pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected))


def png_with_phys(x, y, unit, levels=TEXTURE):
    import zlib

    data = imagecodecs.png_encode(levels)
    body = b"pHYs" + struct.pack(">IIB", x, y, unit)
    return data[:33] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        (2_000_000, 2_000_000, 1, 0.5),
        (4_000_000, 2_000_000, 1, pytest.approx(0.125**0.5)),
        (3780, 3780, 1, None),
        (2_000_000, 2_000_000, 0, None),
        (0, 0, 1, None),
    ],
)
def test_the_physical_size_of_a_png_counts_likewise(tmp_path, x, y, unit, expected):
    (tmp_path / "image.png").write_bytes(png_with_phys(x, y, unit))
    assert load_microstructure_data(tmp_path / "image.png").pixel_size_um == expected


@pytest.mark.parametrize("kind", ["jpeg", "bmp"])
@pytest.mark.parametrize(("dpi", "expected"), [(50_800, 0.5), (300, None)])
def test_the_dots_per_inch_of_a_jpeg_or_bmp_count_likewise(tmp_path, kind, dpi, expected):
    Image.fromarray(TEXTURE).save(tmp_path / "image", kind, dpi=(dpi, dpi))
    size = load_microstructure_data(tmp_path / "image").pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected))


def test_a_camera_named_in_exif_data_is_the_instrument(tmp_path):
    exif = Image.Exif()
    exif[271], exif[272] = "Olympus", "DP74"
    Image.fromarray(TEXTURE).save(tmp_path / "image.jpg", exif=exif)
    assert load_microstructure_data(tmp_path / "image.jpg").instrument == "Olympus DP74"


def test_a_pixel_size_given_by_hand_overrides_the_file(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png_with_phys(2_000_000, 2_000_000, 1))
    micrograph = load_microstructure_data(path, pixel_size_um=3)
    assert (micrograph.pixel_size_um, micrograph.pixel_size_source) == (3.0, "given")


@pytest.mark.parametrize("size", [0, -2, float("nan"), float("inf"), "big"])
def test_a_pixel_size_by_hand_that_is_not_a_positive_number_is_refused(tmp_path, size):
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(TEXTURE))
    with pytest.raises(MicrographError, match=r"image\.png: pixel_size_um is"):
        load_microstructure_data(path, pixel_size_um=size)


def test_makers_metadata_win_over_plain_resolution_tags(tmp_path):
    data = FEI.format(width=1e-8, height=1e-8).encode() + b"\0"
    tifffile.imwrite(
        tmp_path / "image.tif",
        TEXTURE,
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        extratags=[(34682, "s", len(data), data, True), (271, "s", 4, "Acme", True)],
        metadata=None,
    )
    micrograph = load_microstructure_data(tmp_path / "image.tif")
    assert (micrograph.pixel_size_um, micrograph.instrument) == (pytest.approx(0.01), "Thermo/FEI Helios NanoLab")


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (34682, FEI.format(width=1e-8, height=1e-8).replace("X=128", "X=256"), "Thermo/FEI"),
        (34118, ZEISS.format(size="1 nm").replace("128 * 96", "256 * 192"), "Zeiss SEM"),
    ],
)
def test_metadata_of_another_image_are_noted_with_what_gives_the_size_instead(tmp_path, code, text, said):
    assert tagged(tmp_path / "a.tif", code, text).notes == (
        f"The {said} metadata are of an image 256 pixels wide, but it has 128: it was resampled or cropped since; its "
        "pixel size is unknown.",
    )
    data = text.encode("cp1252") + b"\0"
    kept = [(code, "B" if code == 34118 else "s", len(data), data, True)]
    tags = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", TEXTURE, extratags=kept, **tags)
    micrograph = load_microstructure_data(tmp_path / "a.tif")
    assert (micrograph.pixel_size_um, micrograph.pixel_size_source) == (0.5, "resolution tags")
    assert micrograph.notes[0].endswith("cropped since; 0.5 µm is from the resolution tags.")


def test_pixels_that_are_not_square_get_the_size_that_keeps_areas_right():
    assert square_pixel(1.0, 1.5) ** 2 == pytest.approx(1.5)
    assert square_pixel(0.5, None) == pytest.approx(0.5)


@pytest.mark.parametrize(("x", "y"), [(1, 2.1), (0, 0), (-1, -1), (float("nan"), None), (1e9, 1e9), (1e-12, 1e-12)])
def test_implausible_pixel_sizes_are_unknown(x, y):
    assert square_pixel(x, y) is None


@pytest.mark.parametrize("unit", [None, 3, "", "pixel", "µ", "u m"])
def test_what_is_no_unit_of_length_has_no_length(unit):
    assert micrometres(unit) is None


def test_the_name_of_an_instrument_is_printable_and_bounded():
    assert instrument_name("A\x1b[31m", None, 5, "B\n C") == "A\\x1b[31m B C"
    assert len(instrument_name("x" * 10_000)) <= 120
    assert instrument_name(None, " ") is None


def test_a_long_text_is_cut_before_it_is_made_a_name():
    """Its copies took twenty times its size in memory."""
    text = "a\x01 " * 2**20
    tracemalloc.start()
    assert instrument_name(text).startswith("a\\x01 a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@REPEATED
@given(
    code=st.sampled_from([34118, 34680, 34682, 33471, 33560, 37706, 270, 50839]),
    data=st.binary(min_size=1, max_size=300),
)
def test_malformed_metadata_never_keep_an_image_from_being_read(tmp_path, code, data):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, TEXTURE, extratags=[(code, "B", len(data), data, True)], metadata=None)
    np.testing.assert_array_equal(load_microstructure_data(path).pixels, TEXTURE)


@REPEATED
@given(lines=st.lists(st.sampled_from([*FEI.splitlines(), "PixelWidth=abc", "ResolutionY=9e999", "[Scan", "="])))
def test_shuffled_fei_metadata_never_keep_an_image_from_being_read(tmp_path, lines):
    text = "\r\n".join(lines).format(width="1e-8", height="-1")
    assert tagged(tmp_path / "fei.tif", 34682, text).width == 128
