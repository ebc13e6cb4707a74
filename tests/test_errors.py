from __future__ import annotations

import errno

import cv2
import numpy as np
import pytest
import torch

from fusion_diff.errors import MicrographError, disk_full, foreseen, machine_fault, out_of_memory

MORE_THAN_ADDRESSABLE = 2**60


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: np.empty(MORE_THAN_ADDRESSABLE, np.uint8),
        lambda: torch.empty(MORE_THAN_ADDRESSABLE, dtype=torch.uint8),
        lambda: cv2.resize(np.zeros((1, 1), np.uint8), (2**30, 2**30)),
    ],
    ids=["numpy", "torch", "opencv"],
)
def test_a_lack_of_memory_is_told_whichever_library_ran_into_it(allocate):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the libraries' types have nothing in common)
        allocate()
    assert out_of_memory(caught.value)


def test_a_lack_of_memory_of_an_accelerator_is_told():
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"))


def test_other_errors_are_no_lack_of_memory():
    with pytest.raises(cv2.error) as wrong:
        cv2.resize(np.zeros((0, 0), np.uint8), (1, 1))
    for error in (wrong.value, RuntimeError("out of memory"), OSError(28, "full"), MicrographError("std::bad_alloc")):
        assert not out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MicrographError("a.tif: broken; save it again"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (MemoryError(), True),
        (ValueError("a fault of the program"), False),
        (RuntimeError("a fault of the program"), False),
    ],
)
def test_faults_of_the_program_are_not_told_as_the_users(error, told):
    assert foreseen(error) is told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_by_its_number(number):
    full = OSError(number, "full")
    assert disk_full(full)
    assert machine_fault(full) is full
    assert not disk_full(OSError(errno.EACCES, "not allowed"))
    assert not disk_full(ValueError("full"))
