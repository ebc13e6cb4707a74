"""Import of the optional packages that batches need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fusion_diff.dependencies import missing


def needed(module: str, extra: str, package: str = "") -> Any:
    """Import and return a module that an extra installs.

    Args:
        module: name of the module.
        extra: name of the extra.
        package: name to install it by; the module's if omitted.

    Raises:
        DependencyError: it is not installed; the message names the package to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing("this batch", package or module.partition(".")[0], extra=extra) from error
