"""Devices that a model computes on, by name."""

from __future__ import annotations

import torch

from fusion_diff.errors import DeviceError
from fusion_diff.warn import warn


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
