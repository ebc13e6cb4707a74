"""Threads of torch sleep while they wait, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "imported", "spins"),
    [
        (None, "fusion_diff, torch", False),
        ("ACTIVE", "fusion_diff, torch", True),
        (None, "torch, fusion_diff", True),  # too late, as docs/performance.md says
    ],
)
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given, imported, spins):
    """OpenMP prints its settings when it is loaded, which is when torch is."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    words = [sys.executable, "-c", f"import {imported}"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch is built with another OpenMP than libgomp")
    assert ("GOMP_SPINCOUNT = '0'" not in said) == spins
