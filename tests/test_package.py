"""The package itself: what importing it loads, and the names it offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

import fusion_diff
from fusion_diff import errors
from fusion_diff.edge.session import EdgeSession
from fusion_diff.export.run import export_model

HEAVY = "torch", "diffusers", "transformers", "accelerate", "sklearn", "scipy", "skimage", "tifffile", "imagecodecs"


def loaded_by(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["fusion_diff", "fusion_diff.cli", "fusion_diff.verdict.result"])
def test_importing_it_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_micrographs_are_read_without_torch():
    assert "torch" not in loaded_by("from fusion_diff import Micrograph, ReferenceSet, load_microstructure_data")


@pytest.mark.parametrize("name", fusion_diff.__all__)
def test_every_name_it_offers_is_there(name):
    assert getattr(fusion_diff, name).__name__ == name
    assert name in dir(fusion_diff)


@pytest.mark.parametrize("name", ["errors", "synthetic"])
def test_its_modules_for_users_are_there_before_anything_imports_them(name):
    script = f"import fusion_diff; print(fusion_diff.{name}.__name__, {name!r} in dir(fusion_diff))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"fusion_diff.{name}", "True"]


def test_it_lists_nothing_that_it_only_uses():
    listed = {name for name in dir(fusion_diff) if not name.startswith("__")}
    assert listed == {*fusion_diff.__all__, "errors", "synthetic"}


def test_a_name_it_does_not_offer_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Diffusion'"):
        fusion_diff.Diffusion  # noqa: B018


def test_its_version_is_the_installed_one():
    assert fusion_diff.__version__ == metadata.version("fusion-diff")


def test_every_error_can_be_caught_as_one_kind():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, fusion_diff.FusionDiffError) for kind in kinds)


class Somewhere:
    """A path that is neither a text nor a Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_every_function_that_takes_a_path_takes_any_kind_and_its_types_say_so(checkpoint_folder, tmp_path):
    for function in (
        fusion_diff.load_microstructure_data,
        fusion_diff.DiffusionModel.from_pretrained,
        fusion_diff.DiffusionModel.save_pretrained,
        fusion_diff.ReferenceSet.from_folder,
        fusion_diff.ReferenceSet.from_csv,
        EdgeSession.load,
        export_model,
    ):
        taken = inspect.signature(function).parameters
        annotation = next(taken[name].annotation for name in ("path", "folder", "name_or_path") if name in taken)
        assert annotation == "str | os.PathLike[str]", function
    fusion_diff.DiffusionModel.from_pretrained(Somewhere(checkpoint_folder)).save_pretrained(Somewhere(tmp_path / "to"))
    missing = Somewhere(tmp_path / "nowhere")
    for read in (
        fusion_diff.DiffusionModel.from_pretrained,
        EdgeSession.load,
        fusion_diff.load_microstructure_data,
        partial(fusion_diff.ReferenceSet.from_folder, authentic="sound"),
        partial(fusion_diff.ReferenceSet.from_csv, authentic="sound"),
    ):
        with pytest.raises(fusion_diff.FusionDiffError, match="nowhere"):
            read(missing)
