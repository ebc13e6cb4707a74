"""Threads of torch sleep while they wait, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given, policy):
    """OpenMP prints its settings when it is loaded, which is when torch is."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    words = [sys.executable, "-c", "import fusion_diff.fewshot.bags, torch; torch.ones(9).sum()"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in said.stderr
