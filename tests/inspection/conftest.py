"""Rulings for the tests of outputs: one outcome of every action."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fusion_diff.inspection.policy import Policy
from fusion_diff.inspection.run import Outcome

JUDGED = datetime(2026, 3, 31, 14, 5, 0, 125000, tzinfo=UTC)


@pytest.fixture
def rulings(make_inspection):
    """Rulings on a micrograph that fails, one that is warned of, one that passes and one that could not be read."""
    policy = Policy(maximum_region_um=11.0, out_of_scope="warn", sha256="5e" * 32)
    outcomes = [
        Outcome(Path("line-7/a|b <c>.tif"), make_inspection()),
        Outcome(Path("line-7/ü.tif"), make_inspection(decision="inconclusive", in_scope=False, regions=())),
        Outcome(Path("line-7/c.tif"), make_inspection(decision="authentic", score=0.96875, regions=())),
        Outcome(Path("line-7/d.tif"), error="line-7/d.tif: the file is cut off; copy it again"),
    ]
    return policy.rule_all(replace(outcome, judged=JUDGED) for outcome in outcomes)
