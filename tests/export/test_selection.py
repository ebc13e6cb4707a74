from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.export.selection import BUDGETS, choices


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_parts_are_rounded_from_the_least_loss_up_to_the_budget(lost):
    tries = choices(lost)
    assert len(tries) <= len(BUDGETS)
    for groups in tries:
        total = np.sqrt(sum(lost[name] ** 2 for name in groups))
        assert len(groups) > 0
        assert total <= BUDGETS[0] + 1e-9
        assert all(lost[left] >= max(lost[name] for name in groups) for left in set(lost) - set(groups))
    assert all(set(fewer) < set(more) for more, fewer in pairwise(tries))


def test_nothing_is_rounded_where_every_part_loses_too_much():
    assert choices({"a": 0.3, "b": 0.5}) == []
    assert choices({"a": 0.01, "b": 0.5}) == [["a"]]
