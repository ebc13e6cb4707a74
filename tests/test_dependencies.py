"""What errors recommend to install can be installed without a release of FusionDiff in a package index."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from fusion_diff.batch.items import file_system
from fusion_diff.dependencies import install, missing, needed
from fusion_diff.errors import DependencyError
from fusion_diff.service.store import Store

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {file: file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py")}
WHOLE, EDGE = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for folder in (".", "packaging/edge")
)
RECOMMENDED = {
    found
    for text in SOURCES.values()
    for pattern in (
        r"missing\(\s*\"[^\"]+\", \"([^\"]+)\", extra=\"(\w+)\"\)",
        r"needed\(\"[^\"]+\", \"([^\"]+)\", \"(\w+)\"\)",
        r"needed\(\"[^\"]+\", \"\w+\", \"(\w+)\", \"([^\"]+)\"\)",
        r"install\(\'([^\']+)\', extra=\'(\w+)\'\)",
    )
    for found in re.findall(pattern, text)
}
"""Package and extra of every call that names both, in any order."""


def packages(extra: str) -> set[str]:
    """The packages that an extra asks for, without versions."""
    found = set()
    for asked in WHOLE[extra]:
        name = re.match(r"[\w-]+(\[\w+\])?", asked)[0]
        inner = re.fullmatch(r"fusion-diff\[(\w+)\]", name)
        found |= packages(inner[1]) if inner else {name}
    return found


def test_a_missing_package_is_named_with_its_extra():
    error = missing("this batch", "pyarrow", extra="batch")
    assert isinstance(error, DependencyError)
    assert str(error) == (
        "this batch needs pyarrow, which is not installed; run pip install pyarrow (part of the extra 'batch')"
    )
    assert "fastapi, uvicorn, which are not installed" in str(missing("it", "fastapi", "uvicorn", extra="service"))


def test_a_module_that_is_needed_is_imported_or_its_package_named():
    assert needed("this test", "json", "batch") is json
    with pytest.raises(DependencyError, match=r"needs nowhere, which .*; run pip install nowhere \(part"):
        needed("this test", "nowhere.inner", "batch")
    with pytest.raises(DependencyError, match=r"needs ray\[client\], which is not installed"):
        needed("this test", "nowhere", "ray", "ray[client]")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "libgomp.so.1: cannot open"),
        ("", "No module named 'half_here.inner'"),
    ],
)
def test_a_package_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch, content, cause):
    (tmp_path / "half_here").mkdir()
    (tmp_path / "half_here" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError) as refused:
        needed("this test", "half_here.inner", "batch", "half-here")
    sys.modules.pop("half_here", None)  # for the next case; monkeypatch would put it back
    said = str(refused.value)
    assert said.startswith(f"this test needs half-here, which is installed but cannot be imported ({cause}")
    assert said.endswith("; run pip install --force-reinstall half-here, or install the system library that this names")


@pytest.mark.parametrize("open_store", [Store, file_system])
def test_a_kind_of_store_without_its_package_is_named_with_what_to_install(open_store, monkeypatch):
    # Not S3: fsspec keeps a kind of store that another test has opened.
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(DependencyError, match=r"this kind of store needs .*paramiko.*; for S3, run pip install s3fs"):
        open_store("sftp://host/folder")


def test_the_command_can_be_pasted_into_a_shell():
    assert install("imagecodecs", "pillow") == "run pip install imagecodecs pillow"
    assert install("ray[client]") == "run pip install 'ray[client]'"


def test_no_error_recommends_a_release_that_there_is_not():
    for file, text in SOURCES.items():
        assert not re.search(r"pip install \"?\s*\"?\'?fusion-diff", text), file


@pytest.mark.parametrize(("first", "second"), sorted(RECOMMENDED))
def test_a_package_is_named_with_an_extra_that_asks_for_it(first, second):
    extra, package = (first, second) if first in WHOLE and second not in WHOLE else (second, first)
    assert package.partition(".")[0] in packages(extra)


def test_the_calls_were_found():
    assert {("onnxscript", "onnx"), ("onnx", "onnx")} <= RECOMMENDED
    assert {("pyarrow", "batch"), ("ray", "ray[client]"), ("s3fs", "s3"), ("onnxruntime", "onnx")} <= RECOMMENDED


def test_the_extras_of_the_edge_have_the_names_of_the_whole():
    assert {name.partition(">")[0] for name in EDGE["onnx"]} <= packages("onnx")
    assert {name.partition(">")[0] for name in EDGE["openvino"]} <= packages("openvino")
    assert {name.partition(">")[0] for name in EDGE["images"]} == {"imagecodecs", "pillow"}, "as a micrograph says"
