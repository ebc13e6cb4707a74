"""Errors about packages that are not installed.

FusionDiff is installed from a checkout or a wheel, so errors name the missing packages themselves instead of an extra
of a release in a package index.
"""

from __future__ import annotations

from shlex import quote

from fusion_diff.errors import DependencyError

WHOLE = "install fusion-diff from its checkout or wheel in place of fusion-diff-edge"
"""What to do if only the edge distribution is installed."""


def install(*packages: str, extra: str = "") -> str:
    """Return the command that installs packages, and the extra of FusionDiff that they belong to."""
    command = f"run pip install {' '.join(map(quote, packages))}"
    return f"{command} (part of the extra {extra!r})" if extra else command


def one_missing(what: str, error: ImportError, *packages: str, extra: str) -> DependencyError:
    """Return the error for that of several packages whose import failed; the first where it is none of them."""
    return missing(what, error.name if error.name in packages else packages[0], extra=extra)


def missing(what: str, *packages: str, extra: str) -> DependencyError:
    """Return the error for packages that are not installed.

    Args:
        what: what needs them, as the subject of a sentence.
        packages: their names in a package index.
        extra: the extra of FusionDiff that they belong to.
    """
    verb = "is" if len(packages) == 1 else "are"
    return DependencyError(
        f"{what} needs {', '.join(packages)}, which {verb} not installed; {install(*packages, extra=extra)}"
    )
