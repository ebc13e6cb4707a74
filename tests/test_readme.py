"""The README's Python example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tifffile

from fusion_diff.synthetic import builtin_references, builtin_samples

README = Path(__file__).resolve().parents[1] / "README.md"


def write(path, micrograph):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.rint(micrograph.pixels * 65535).astype(np.uint16))


def test_the_example_in_the_readme_runs_as_written(tmp_path, monkeypatch, capsys, recwarn):
    for index, (micrograph, label) in enumerate(zip(*builtin_references(5, size=96), strict=True)):
        write(tmp_path / "references" / label / f"S{index:02d}_1.tif", micrograph)
    write(tmp_path / "sample_001.tif", builtin_samples(1, size=96)[0][0])
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    score = float(re.search(r"Authenticity Confidence: (0\.\d{4}|1\.0000)", out)[1])
    assert 0 <= score <= 1
    assert names["authenticity_score"].ndim == 0
    assert names["inspection"].decision in ("authentic", "not authentic", "inconclusive")
    assert (tmp_path / "line-7" / "manifest.json").is_file()
