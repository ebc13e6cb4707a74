"""Warnings point at the code that called the package."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import tifffile

from fusion_diff import Micrograph, ReferenceSet, load_microstructure_data
from fusion_diff.devices import own_settings
from fusion_diff.warn import collected, warn


def where(call):
    """Return the file and the message of the one warning that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    return warning.filename, str(warning.message)


def test_a_warning_points_at_the_caller_however_deep_it_comes_from(tmp_path):
    for label in ("sound", "crack"):
        (tmp_path / label).mkdir()
        levels = np.random.default_rng(ord(label[0])).integers(0, 256, (2, 40, 48), dtype=np.uint8)
        tifffile.imwrite(
            tmp_path / label / "1.tif", levels[0] if label == "sound" else levels, photometric="minisblack"
        )
    stack = tmp_path / "crack" / "1.tif"
    (tmp_path / "list.csv").write_text("file,label\nsound/1.tif,sound\ncrack/1.tif,crack\n")
    micrograph = Micrograph.from_array(levels[0])
    for call, said in (
        (lambda: own_settings()(warn)("as it is issued while exporting"), "exporting"),
        (lambda: load_microstructure_data(stack), "2 images"),
        (lambda: ReferenceSet.from_folder(tmp_path, authentic="sound"), "2 images"),
        (lambda: ReferenceSet.from_csv(tmp_path / "list.csv", authentic="sound"), "2 images"),
        (lambda: ReferenceSet.from_micrographs([micrograph] * 2, ["sound"] * 2, authentic="sound"), "is a copy of"),
    ):
        filename, message = where(call)
        assert filename == __file__
        assert said in message


def test_warnings_of_one_thread_are_collected_also_those_that_python_leaves_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with collected() as texts:
            other = threading.Thread(target=warn, args=("of another thread",))
            other.start()
            other.join()
            for _ in range(2):
                warn("odd")
        warn("afterwards")
    assert texts == ["odd", "odd"]
