from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion_diff.checkpoint import seal
from fusion_diff.edge.exported import DESCRIPTION


@pytest.fixture
def changed(exported_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of the exported model with changed values in its description and a valid manifest."""

    def make(**values: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(exported_folder, folder)
        described = json.loads((folder / DESCRIPTION).read_text())
        (folder / DESCRIPTION).write_text(json.dumps(described | values))
        seal(folder)
        return folder

    return make
