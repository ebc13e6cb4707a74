"""Graceful stop on SIGTERM and Ctrl-C, so that finished work is kept and temporary files are removed."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Options = ParamSpec("Options")
TERMINATED = 143
"""Exit code after SIGTERM, as in shells."""


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@contextmanager
def heed_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does; clusters send it before they remove a machine.

    It stays ignored where the parent had it ignored, as `trap '' TERM` does; not in a container's first process, which
    clusters have to be able to stop.

    Raises:
        Terminated: SIGTERM was received.
    """
    ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN and os.getpid() != 1
    if ignored or threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stoppable(command: Callable[Options, int]) -> Callable[Options, int]:
    """Let SIGTERM end a command as Ctrl-C does, but with the exit code `TERMINATED`.

    An error that a library makes of either, as torch's exporter does, is no fault of the program.
    """

    @wraps(command)
    def run(*args: Options.args, **kwargs: Options.kwargs) -> int:
        with _noted(signal.SIGINT) as stopped, heed_sigterm(), _noted(signal.SIGTERM) as terminated:
            try:
                return command(*args, **kwargs)
            except Terminated:
                return TERMINATED
            except Exception as error:
                if terminated:
                    return TERMINATED
                if stopped:
                    raise KeyboardInterrupt from error
                raise

    return run


@contextmanager
def _noted(number: signal.Signals) -> Iterator[list[int]]:
    """Note in the list yielded whether a signal came, beside what Python does at it."""
    came: list[int] = []
    before = signal.getsignal(number)
    # Without a handler it is ignored, or ends the process.
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(*args: Any) -> None:
        came.append(number)
        before(*args)

    signal.signal(number, note)
    try:
        yield came
    finally:
        signal.signal(number, before)
