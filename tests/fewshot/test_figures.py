"""AUROC and macro F1 against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff.fewshot.figures import auroc, macro_f1


@settings(max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_area_is_that_of_scikit_learn_with_ties(authentic, others):
    truth = np.repeat([0, 1], [len(authentic), len(others)])
    found = auroc(np.asarray(authentic, dtype=float), np.asarray(others, dtype=float))
    assert found == pytest.approx(roc_auc_score(truth, [*authentic, *others]))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_macro_f1_is_that_of_scikit_learn_over_the_sides_there_are(pairs):
    truth, said = zip(*pairs, strict=True)
    expected = f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert macro_f1(truth, said) == pytest.approx(expected)
