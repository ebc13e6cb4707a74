from __future__ import annotations

import numpy as np

from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.synthetic import builtin_samples, generate, write_marks, write_micrographs


def test_samples_are_read_back_at_16_bits_with_their_pixel_size(tmp_path):
    drawn, labels = builtin_samples(2, size=64)
    paths = write_micrographs(drawn, labels, tmp_path / "new" / "micrographs")
    assert len(set(paths)) == len(drawn)
    for path, label, one in zip(paths, labels, drawn, strict=True):
        micrograph = load_microstructure_data(path)
        assert path.name.startswith(label)
        assert micrograph.dtype == np.uint16
        assert abs(micrograph.pixel_size_um / one.pixel_size_um - 1) < 1e-3
        np.testing.assert_allclose(micrograph.pixels / 65535, np.clip(one.pixels, 0, 1), atol=1e-4)


def test_marks_lie_beside_their_micrographs_and_show_where_the_flaw_is(tmp_path):
    drawn = [generate(3, size=96, material="alumina", flaw=flaw) for flaw in ("sound", "crack", "counterfeit")]
    paths = write_micrographs(drawn, ["a", "b", "c"], tmp_path)
    marks = write_marks(drawn, paths)
    assert marks == [None, tmp_path / "b-01-mark.png", None]
    mask = load_microstructure_data(marks[1]).pixels
    np.testing.assert_array_equal(mask, np.where(drawn[1].mask > 0, 255, 0))
