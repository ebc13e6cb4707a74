"""Wheel and sdist: they build, and hold what they have to and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fusion_diff"
MOST_BYTES = 40 * 2**20
NOT_OURS = re.compile(r"(^|/)(runs|report|shared|\.venv|__pycache__|\.hypothesis)/|\.(tiff?|jpe?g|bmp|key|pub|sig|db)$")
"""Runs, real images, keys: none of it is for others."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds both by the tools that are installed; gives (wheel, sdist)."""
    pytest.importorskip("build", reason="build is not installed; pip install 'fusion-diff[test]'")
    pytest.importorskip("hatchling", reason="hatchling is not installed; pip install 'fusion-diff[test]'")
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run([sys.executable, *words], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(asked):
    """Return the name of a package that a requirement asks for, as package indexes write it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9_.-]+", asked)[0]).lower()


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {
        file.relative_to(PACKAGE.parent).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == ours
    for name in (
        "checkpoints/fusion-diff-v1-ceramic/manifest.json",
        "checkpoints/fusion-diff-v1-ceramic/encoder.safetensors",
        "checkpoints/fusion-diff-v1-ceramic/enrolment.safetensors",
        "checkpoints/fusion-diff-v1-ceramic/prior/unet/diffusion_pytorch_model.safetensors",
        "inspection/report.html.j2",
        "inspection/audit.html.j2",
        "service/migrations/versions/0001_initial.py",
        "service/pages/templates/base.html.j2",
        "service/pages/static/pages.css",
        "py.typed",
    ):
        assert f"fusion_diff/{name}" in held
    assert built[0].stat().st_size < MOST_BYTES


def test_the_weights_in_the_wheel_are_whole(built, tmp_path):
    from fusion_diff.checkpoint import EMBEDDED, verify

    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path, [name for name in wheel.namelist() if f"checkpoints/{EMBEDDED}/" in name])
    verify(tmp_path / "fusion_diff" / "checkpoints" / EMBEDDED)


def test_the_metadata_tell_what_is_needed_and_how_it_is_used(built, project):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(wheel.read(name).decode())
        points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Version"] == project["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"service", "ray", "batch", "onnx", "openvino", "all"} <= set(metadata.get_all("Provides-Extra"))
    assert 'DiffusionModel.from_pretrained("fusion-diff-v1-ceramic")' in metadata.get_payload()
    assert "fusion-diff = fusion_diff.cli:main" in points


def test_the_sdist_holds_what_the_tests_need_and_no_images_keys_or_runs(built):
    with tarfile.open(built[1]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert [name for name in held if NOT_OURS.search(name)] == []
    for name in (
        "pyproject.toml",
        "constraints.txt",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "deploy/Dockerfile",
        "mkdocs.yml",
    ):
        assert name in held
    assert "tests/distribution/test_distribution.py" in held
    assert built[1].stat().st_size < MOST_BYTES


def test_every_extra_that_runs_something_is_part_of_all(project):
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    taken = set(re.fullmatch(r"fusion-diff\[(.*)\]", everything)[1].split(","))
    assert taken == set(extras) - {"all", "benchmarks", "browser", "docs", "fuzz", "test"}


def test_what_is_pinned_is_what_is_asked_for(project):
    """Every direct dependency has its version in constraints.txt, so that an installation is the measured one."""
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    assert {*map(plain, asked)} - {"fusion-diff"} - set(pins()) == set()


def test_so_is_all_that_it_brings_for_users(project):
    """As far as it is installed here."""
    requirements = pytest.importorskip("packaging.requirements")
    extras, found = project["optional-dependencies"], set()

    def follow(asked, extra=""):
        it = requirements.Requirement(asked)
        if it.marker is not None and not it.marker.evaluate({"extra": extra}):
            return
        name = plain(it.name)
        if name == "fusion-diff":
            brought = [(each, "") for wanted in it.extras for each in extras[wanted]]
        elif (name, *it.extras) in found:
            return
        else:
            found.add((name, *it.extras))
            try:
                brought = [(each, extra) for extra in ("", *it.extras) for each in distribution(name).requires or ()]
            except PackageNotFoundError:
                return
        for each in brought:
            follow(*each)

    for asked in (*project["dependencies"], "fusion-diff[all]"):
        follow(asked)
    of_cuda = re.compile(r"nvidia-|cuda-|triton$")  # torch itself fixes their versions
    names = {name for name, *_ in found if not of_cuda.match(name)}
    assert len(names) > 80
    assert names - set(pins()) == set()


def test_what_is_imported_is_asked_for(project):
    """A package that is there only because another one asks for it may be gone with the other's next release."""
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    declared, providers = {*map(plain, asked), "fusion-diff"}, packages_distributions()
    undeclared = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {each.partition(".")[0] for each in names}:
                if name in providers and declared.isdisjoint(map(plain, providers[name])):
                    undeclared.add((name, file.name))
    assert undeclared == set()
