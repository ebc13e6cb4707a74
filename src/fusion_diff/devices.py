"""Devices that a model computes on, by name, and the settings of torch that it computes with."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import torch

from fusion_diff.errors import DeviceError
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

if hasattr(os, "register_at_fork"):
    # A forked child has no threads but waits for those that its parent computed with. With a single one it needs none.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class _Settings:
    """Torch's default type, which is one for all threads: the last call to end gives back what the first one found."""

    def __init__(self) -> None:
        self.lock, self.calls, self.found = Lock(), 0, torch.float32

    def enter(self) -> None:
        with self.lock:
            if not self.calls:
                self.found = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.calls += 1

    def leave(self) -> None:
        with self.lock:
            self.calls -= 1
            if not self.calls:
                torch.set_default_dtype(self.found)


_SETTINGS = _Settings()


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute in float32, whatever default type, default device or autocast the caller has set for torch."""
    _SETTINGS.enter()
    try:
        with ExitStack() as stack:
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda", "xpu", "mps"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        _SETTINGS.leave()


def available(device: str | torch.device) -> torch.device:
    """Return a device, or the CPU with a warning if that device is not available here.

    Args:
        device: `cpu`, `cuda`, `npu`, `xpu` or `mps`, with an index if wanted (`cuda:1`).

    Raises:
        DeviceError: this is not the name of a device.
    """
    # torch knows the name "npu" only if the vendor's package is installed
    unknown = str(device).partition(":")[0] == "npu" and not hasattr(torch, "npu")
    try:
        wanted = torch.device("cpu" if unknown else device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{device!r} is not a device; use cpu, cuda, npu, xpu or mps") from error
    if unknown or (wanted.type != "cpu" and not _is_here(wanted)):
        warn(f"device {device} is not available here; computing on the CPU instead")
        return torch.device("cpu")
    return wanted


def _is_here(device: torch.device) -> bool:
    backend = getattr(torch, device.type, None)
    return backend is not None and backend.is_available() and (device.index or 0) < backend.device_count()
