"""The pixel size of a page of an OME-TIFF is that of the image to which the page belongs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile

from fusion_diff.micrograph import load_microstructure_data

PAGES = np.random.default_rng(0).integers(0, 256, (4, 48, 64), dtype=np.uint8)
TIFF_DATA = ('<TiffData IFD="0"/>', '<TiffData IFD="1"/>')


def image(size, listed="", dimensions=(64, 48), planes=1):
    physical = "" if size is None else f'PhysicalSizeX="{size}" PhysicalSizeY="{size}"'
    width, height = dimensions
    return (
        f'<Image><Pixels SizeX="{width}" SizeY="{height}" SizeZ="{planes}" SizeC="1" SizeT="1" {physical}>'
        f"{listed}</Pixels></Image>"
    )


def sizes(path, *images, pages=PAGES[:2], identifier="", **options):
    """The pixel size of each page, and the notes on the last."""
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = f'<?xml version="1.0"?><OME xmlns="{space}"{identifier}>{"".join(images)}</OME>'
    with tifffile.TiffWriter(path) as file:
        for index, levels in enumerate(pages):
            file.write(levels, description=text if index == 0 else None, metadata=None, **options)
    read = [load_microstructure_data(path, page=index) for index in range(len(pages))]
    return [micrograph.pixel_size_um for micrograph in read], read[-1].notes


def test_each_page_has_the_size_of_the_image_that_lists_it(tmp_path):
    found, notes = sizes(tmp_path / "a.tif", image(0.24, TIFF_DATA[0]), image(2.4, TIFF_DATA[1]))
    assert (found, notes) == ([0.24, 2.4], ())
    assert sizes(tmp_path / "a.tif", image(0.24, TIFF_DATA[1]), image(2.4, TIFF_DATA[0]))[0] == [2.4, 0.24]


@pytest.mark.parametrize(
    "listed", ['<TiffData IFD="1" PlaneCount="3"/>', "".join(f'<TiffData IFD="{i}"/>' for i in (1, 2, 3))]
)
def test_an_image_may_list_several_pages(tmp_path, listed):
    assert sizes(tmp_path / "a.tif", image(1, "<TiffData/>"), image(2, listed, planes=3), pages=PAGES)[0] == [
        1,
        2,
        2,
        2,
    ]


def test_images_that_list_nothing_follow_each_other(tmp_path):
    assert sizes(tmp_path / "a.tif", image(1, planes=3), image(2), pages=PAGES)[0] == [1, 1, 1, 2]


def test_pages_of_another_file_are_not_those_of_this_one(tmp_path):
    there = '<TiffData IFD="0"><UUID FileName="b.tif">\n urn:uuid:b \n</UUID>\n</TiffData>'
    here = there.replace("uuid:b", "uuid:a")
    images = image(1, there), image(2, here)
    assert sizes(tmp_path / "a.tif", *images, pages=PAGES[:1], identifier=' UUID="urn:uuid:a"')[0] == [2]


def test_a_page_of_no_image_has_an_unknown_size_where_those_of_its_dimensions_differ(tmp_path):
    images = image(0.24, TIFF_DATA[0]), image(2.4, TIFF_DATA[1])
    tags = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    found, notes = sizes(tmp_path / "a.tif", *images, pages=PAGES[:3], **tags)
    assert found == [0.24, 2.4, None]
    assert notes == (
        "The OME metadata have images of its dimensions whose pixel sizes differ, and do not say which it is; its "
        "pixel size is unknown.",
    )
    alike = image(0.24, TIFF_DATA[0]), image(0.24, TIFF_DATA[1])
    assert sizes(tmp_path / "a.tif", *alike, pages=PAGES[:3])[0] == [0.24, 0.24, 0.24]


def test_a_page_that_no_image_describes_has_the_size_of_its_tags_with_a_note(tmp_path):
    tags = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    other = image(2.4, TIFF_DATA[0], dimensions=(640, 480))
    found, notes = sizes(tmp_path / "a.tif", other, pages=PAGES[:1], **tags)
    assert found == [0.5]
    assert notes == ("The OME metadata have no image of 64x48 pixels; 0.5 µm is from the resolution tags.",)
    assert sizes(tmp_path / "a.tif", image(None, dimensions=(640, 480)), pages=PAGES[:1], **tags)[1] == ()


def hostile():
    """Texts whose parsing took 200 megabytes to 1 gigabyte; those of namespaces would take any amount."""
    many = 300_000
    attributes = " ".join(f'a{index:x}=""' for index in range(10 * many))
    yield f"<OME {attributes}/><OME>"
    yield f"<OME>{''.join(f'<a{index:x}/>' for index in range(many))}</OME>"
    yield f"<OME>{'<a>' * 6 * many}{'</a>' * 6 * many}</OME>"
    names = "".join(f"<a{index:x}/>" for index in range(3000))
    yield f'<OME xmlns="{"u" * many}">{names}</OME>'
    prefixed = " ".join(f'p:a{index:x}=""' for index in range(3000))
    yield f'<OME><a xmlns:p="{"u" * many}" {prefixed}/></OME>'


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is in kilobytes on Linux alone")
def test_ome_metadata_are_read_in_bounded_memory(tmp_path):
    for index, text in enumerate(hostile()):
        tifffile.imwrite(tmp_path / f"{index}.tif", PAGES[0], description=text, metadata=None)
    program = (
        "import resource, sys, tifffile; from fusion_diff.micrograph import load_microstructure_data as load\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]: print(*load(path).notes)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    files = map(str, sorted(tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    *notes, peak = done.stdout.splitlines()
    note = "The OME metadata are far longer than those of any program, and were not read; its pixel size is unknown."
    assert notes == [note, note, note, "", ""]
    assert int(peak) < 150 * 1024


def test_long_ome_metadata_are_read(tmp_path):
    plane = '<Plane TheZ="0" TheC="0" TheT="0" DeltaT="0.125" PositionX="1" PositionY="2"/>'
    assert sizes(tmp_path / "a.tif", image(0.24, plane * 100_000), pages=PAGES[:1])[0] == [0.24]


def test_the_elements_of_ome_metadata_may_have_a_prefix(tmp_path):
    text = '<o:OME xmlns:o="urn:o"><o:Pixels SizeX="64" SizeY="48" PhysicalSizeX="0.24"/></o:OME>'
    tifffile.imwrite(tmp_path / "a.tif", PAGES[0], description=text, metadata=None)
    assert load_microstructure_data(tmp_path / "a.tif").pixel_size_um == 0.24
