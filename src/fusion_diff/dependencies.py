"""Errors about packages that are not installed, or not as a whole.

FusionDiff is installed from a checkout or a wheel, so errors name the missing packages themselves instead of an extra
of a release in a package index.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from shlex import quote
from typing import Any

from fusion_diff.errors import DependencyError
from fusion_diff.printable import printable

WHOLE = "install fusion-diff from its checkout or wheel in place of fusion-diff-edge"
"""What to do if only the edge distribution is installed."""


def install(*packages: str, extra: str = "") -> str:
    """Return the command that installs packages, and the extra of FusionDiff that they belong to."""
    command = f"run pip install {' '.join(map(quote, packages))}"
    return f"{command} (part of the extra {extra!r})" if extra else command


def needed(what: str, module: str, extra: str, package: str = "") -> Any:
    """Import and return a module of a package that may be missing.

    Args:
        what: what needs it, as the subject of a sentence.
        module: name of the module.
        extra: name of the extra that installs it; empty for a package that FusionDiff always asks for.
        package: name to install it by; the module's if omitted.

    Raises:
        DependencyError: it is not installed, or is but cannot be imported; the message names the package to install.
    """
    root = module.partition(".")[0]
    package = package or root
    try:
        return import_module(module)
    except ImportError as error:
        if find_spec(root) is None:
            raise missing(what, package, extra=extra) from error
        raise DependencyError(
            f"{what} needs {package}, which is installed but cannot be imported ({printable(error, 200)}); "
            f"{install('--force-reinstall', package)}, or install the system library that this names"
        ) from error


def store_missing(name: str, error: ImportError) -> DependencyError:
    """Return the error for a store of a kind that fsspec has no package for, as the error says."""
    return DependencyError(
        f"{name}: this kind of store needs a package that is not installed ({printable(error, 200)}); for S3, "
        f"{install('s3fs', extra='s3')}"
    )


def missing(what: str, *packages: str, extra: str) -> DependencyError:
    """Return the error for packages that are not installed.

    Args:
        what: what needs them, as the subject of a sentence.
        packages: their names in a package index.
        extra: the extra of FusionDiff that they belong to; may be empty.
    """
    verb = "is" if len(packages) == 1 else "are"
    return DependencyError(
        f"{what} needs {', '.join(packages)}, which {verb} not installed; {install(*packages, extra=extra)}"
    )
