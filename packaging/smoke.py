"""Smoke test of an installed FusionDiff, apart from its sources: does what was built do what its README says?

    python -m build && python -m venv fresh
    fresh/bin/pip install --constraint constraints.txt dist/fusion_diff-*.whl
    fresh/bin/python packaging/smoke.py

Draws procedural micrographs into a temporary folder, runs the README's Python example from the package's own metadata
as it stands, and inspects with the command line. Needs nothing but the installed package.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

PROMISED = (
    'DiffusionModel.from_pretrained("fusion-diff-v1-ceramic")',
    'load_microstructure_data("sample_001.tif")',
    "predict_authenticity(sample, shots=5)",
)
"""What the example has to hold."""


def example() -> str:
    """Return the Python example of the README that the package was built with."""
    readme = importlib.metadata.metadata("fusion-diff")["Description"]
    found = [block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if PROMISED[0] in block]
    if len(found) != 1 or not all(words in found[0] for words in PROMISED):
        raise SystemExit("the package's README has no example with " + ", ".join(PROMISED))
    return str(found[0])


def draw() -> None:
    """Write five references a class and a sample that is none of them, as 16-bit TIFF."""
    from fusion_diff.synthetic import builtin_references, builtin_samples, write_micrographs

    drawn, labels = builtin_references(5)
    for label in dict.fromkeys(labels):
        chosen = [each for each, its in zip(drawn, labels, strict=True) if its == label]
        write_micrographs(chosen, [label] * len(chosen), Path("references") / label)
    write_micrographs(builtin_samples(1)[0][:1], ["sample"], Path())
    Path("sample-01.tif").rename("sample_001.tif")
    for label in dict.fromkeys(labels):  # the example takes the specimen from names such as A12_1.tif
        for file in sorted((Path("references") / label).iterdir()):
            file.rename(file.with_name(f"{file.stem}_1.tif"))


def command(*words: str) -> str:
    """Run the installed `fusion-diff`; any verdict will do, but no failure."""
    program = Path(sysconfig.get_path("scripts")) / "fusion-diff"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"fusion-diff {' '.join(words)} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main() -> int:
    """Run all of it and say what came out."""
    import fusion_diff

    where = Path(fusion_diff.__file__).resolve()
    if not where.is_relative_to(Path(sysconfig.get_path("purelib")).resolve()):
        raise SystemExit(f"{where}: these are the sources; install the wheel into a fresh environment")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw()
        told = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(told):
            warnings.simplefilter("ignore")  # that there is no CUDA
            exec(compile(example(), "README.md", "exec"), {})
        score = re.search(r"Authenticity Confidence: (\d\.\d{4})", told.getvalue())
        if score is None or not 0 <= float(score[1]) <= 1:
            raise SystemExit(f"the example printed no confidence: {told.getvalue()}")
        print(command("--version").strip())
        print(score[0])
        print(command("inspect", "sample_001.tif", "--model", "line-7", "--report", "report").strip())
        if not Path("report/index.html").is_file():
            raise SystemExit("inspect wrote no report")
        os.chdir("/")
    print("Smoke test passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
