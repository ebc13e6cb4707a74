"""The manifests in deploy/, by where they come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml")
sys.path.insert(0, str(Path(__file__).parent))

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder deploy/."""
    return DEPLOY
