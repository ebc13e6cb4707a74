"""Import of the optional packages that batches need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fusion_diff.errors import DependencyError


def needed(module: str, extra: str) -> Any:
    """Import and return a module that an extra installs.

    Raises:
        DependencyError: it is not installed; the message names the extra to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DependencyError(
            f"this batch needs {package}, which is not installed; pip install 'fusion-diff[{extra}]'"
        ) from error
