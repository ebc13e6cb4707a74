"""Devices that a model computes on, by name, and the settings of torch that it computes with."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from fusion_diff.errors import DeviceError
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class _Settings:
    """Torch's default type, which is one for all threads: the last call to end gives back the caller's."""

    def __init__(self) -> None:
        self.lock, self.calls, self.found = Lock(), 0, torch.float32
        self.of_thread = local()

    def enter(self) -> None:
        with self.lock:
            default = torch.get_default_dtype()
            if not self.calls or default != torch.float32:  # during other calls, the caller has set another one
                self.found = default
                torch.set_default_dtype(torch.float32)
            self._count(1)

    def leave(self) -> None:
        with self.lock:
            self._count(-1)
            self._give_back()

    def of_child(self) -> None:
        """Forget the calls of the parent's other threads, which a forked child does not have."""
        before, self.calls, self.lock = self.calls, getattr(self.of_thread, "calls", 0), Lock()
        if before:
            self._give_back()

    def _count(self, change: int) -> None:
        self.calls += change
        self.of_thread.calls = getattr(self.of_thread, "calls", 0) + change

    def _give_back(self) -> None:
        if not self.calls and torch.get_default_dtype() == torch.float32:  # or else the caller has set it since
            torch.set_default_dtype(self.found)


_SETTINGS = _Settings()


def in_forked_child(do: Callable[[], object]) -> None:
    """Have this done in every forked child, where systems fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=do)


# A forked child has no threads but waits for those that its parent computed with. With a single one it needs none.
in_forked_child(lambda: torch.set_num_threads(1))
in_forked_child(_SETTINGS.of_child)


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute in float32, whatever default type, default device or autocast the caller has set for torch.

    Nor in the caller's inference mode: what is loaded or learned in one could be computed with nowhere else.
    """
    _SETTINGS.enter()
    try:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda", "xpu", "mps"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        _SETTINGS.leave()


class OwnNumbers(TorchFunctionMode):
    """Networks built meanwhile by this thread draw from a generator of their own, not from the caller's sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator(device="cpu").manual_seed(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if given.get("generator", self) is None:  # what draws is told None where it is to use the global one
            given["generator"] = self.generator
        return func(*args, **given)


def available(device: str | torch.device) -> torch.device:
    """Return a device, or the CPU with a warning if that device is not available here.

    Args:
        device: `cpu`, `cuda`, `npu`, `xpu` or `mps`, with an index if wanted (`cuda:1`).

    Raises:
        DeviceError: this is not the name of a device.
    """
    found = _found(device)
    if found is None:
        warn(f"device {device} is not available here; computing on the CPU instead")
        return torch.device("cpu")
    return found


def present(device: str) -> torch.device:
    """Return a device that a command line or the environment names, as `available` does, but never another one.

    Raises:
        DeviceError: this is not the name of a device, or it is not available here.
    """
    found = _found(device)
    if found is None:
        raise DeviceError(
            f"device {device} is not available here; name another one, such as cpu (--device, FUSION_DIFF_DEVICE), or "
            "install its driver and the build of torch for it"
        )
    return found


def _found(device: str | torch.device) -> torch.device | None:
    """Return a device; None if it is not available here."""
    # torch knows the name "npu" only if the vendor's package is installed
    unknown = str(device).partition(":")[0] == "npu" and not hasattr(torch, "npu")
    try:
        wanted = torch.device("cpu" if unknown else device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"{device!r} is not a device; use cpu, cuda, npu, xpu or mps (AUTO and the names of a runtime are for "
            "exported models)"
        ) from error
    return None if unknown or (wanted.type != "cpu" and not _is_here(wanted)) else wanted


def _is_here(device: torch.device) -> bool:
    backend = getattr(torch, device.type, None)
    return backend is not None and backend.is_available() and (device.index or 0) < backend.device_count()
