"""Warnings located at the code that called the package, however deep in the package they are issued."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_collecting: ContextVar[list[str] | None] = ContextVar("_collecting", default=None)


class EnrolmentWarning(UserWarning):
    """The references do not bear out the scores."""


def warn(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Issue a warning located at the line that called the package."""
    if (texts := _collecting.get()) is not None:
        texts.append(message)
    level, frame = 1, sys._getframe()
    own = {__package__, "contextlib"}  # through the latter, functions with settings of their own are called
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in own:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Give the texts of the warnings that this thread issues during the block, also of those that Python filters out.

    Python's own `catch_warnings` would catch those of other threads.
    """
    texts: list[str] = []
    token = _collecting.set(texts)
    try:
        yield texts
    finally:
        _collecting.reset(token)


def warn_of_builtin_references(*, exported: bool = False) -> None:
    """Warn that only the built-in procedural references are enrolled.

    Args:
        exported: the model is an exported one, in which references cannot be enrolled.
    """
    then = ", then export the model again" if exported else ""
    warn(
        "this model has its built-in procedural references only, so its scores mean nothing for your ware; enrol your "
        "own references with `fusion-diff enroll`, or in Python with "
        f"model.enroll(ReferenceSet.from_folder(..., authentic=...)){then}"
    )
