"""The benchmarks as modules, and a folder of images for those that only need their names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a benchmark by name. All are forgotten afterwards, for they have names such as `service`."""

    def take(name: str) -> ModuleType:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if (BENCHMARKS / f"{error.name}.py").exists():
                raise
            pytest.skip(f"{error.name} is not installed; pip install 'fusion-diff[benchmarks]'")

    sys.path.insert(0, str(BENCHMARKS))
    yield take
    sys.path.remove(str(BENCHMARKS))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def call(load, monkeypatch) -> Callable[..., int | None]:
    """Calls a benchmark as the command line does."""

    def run(name: str, *words: object) -> int | None:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        return load(name).main()

    return run


@pytest.fixture
def coatings(tmp_path) -> Path:
    """A folder of empty files with the names of `ebc_crack`: four specimens, six images of each side."""
    for side in ("sound", "crack"):
        (tmp_path / "data" / "ebc_crack" / side).mkdir(parents=True)
        for specimen in "ABCD":
            for number in range(6):
                (tmp_path / "data" / "ebc_crack" / side / f"{specimen}_{number}.png").touch()
    return tmp_path / "data"
