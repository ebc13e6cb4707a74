"""Fixtures that write small image files and reference folders."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Writer = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Writer:
    """Write a grey image of unique noise below tmp_path and return its path."""

    def write(name: str, *, size: tuple[int, int] = (40, 48)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def draw_mark(tmp_path: Path) -> Writer:
    """Write a mask below tmp_path with a flaw in the given rows and columns, and return its path."""

    def write(
        name: str, *, rows: slice = slice(2, 6), columns: slice = slice(3, 9), level: int = 255,
        size: tuple[int, int] = (40, 48),
    ) -> Path:  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros(size, dtype=np.uint8)
        mask[rows, columns] = level
        Image.fromarray(mask).save(path)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, draw: Writer) -> Path:
    """Return a folder with three sound, two crack and one blowhole reference."""
    for name in ("sound/p1_a", "sound/p1_b", "sound/p2_a", "crack/p1_c", "crack/p3_a", "blowhole/p4_a"):
        draw(f"refs/{name}.png")
    return tmp_path / "refs"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images, or skip."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real images of shared/data are not here")
    return path
