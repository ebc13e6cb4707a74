from __future__ import annotations

import numpy as np

from fusion_diff.commands.demo import write_micrographs
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.synthetic import builtin_samples


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
