"""Ridge logistic regression against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fusion_diff.fewshot.evidence.logistic import balanced, fit_logistic


def sklearn_coefficients(features: torch.Tensor, labels: np.ndarray, weights: torch.Tensor, ridge: float) -> np.ndarray:
    # sklearn minimises |w|²/2 + C * sum(weight * loss): the same if C is 1 / ridge
    oracle = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10_000)
    oracle.fit(features.numpy().astype(float), labels, sample_weight=weights.numpy().astype(float))
    return np.r_[oracle.coef_[0], oracle.intercept_]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000), st.integers(10, 80), st.integers(1, 8), st.sampled_from([0.01, 0.1, 1.0]), st.floats(0, 2)
)
def test_it_finds_what_scikit_learn_finds_on_weighted_data(seed, count, channels, ridge, shift):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(3), np.zeros(3), rng.integers(0, 2, count)]
    features = torch.from_numpy(rng.normal(size=(count + 6, channels)) + shift * labels[:, None]).float()
    weights = torch.from_numpy(rng.uniform(0.1, 1, count + 6)).float()
    weights /= weights.sum()
    ours = fit_logistic(features, torch.from_numpy(labels).float(), weights, ridge, steps=50).numpy()
    np.testing.assert_allclose(ours, sklearn_coefficients(features, labels, weights, ridge), rtol=5e-3, atol=5e-3)


def test_soft_labels_weigh_like_split_samples():
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    soft = torch.tensor([0.1, 0.3, 0.8, 0.9])
    ours = fit_logistic(features, soft, torch.full((4,), 0.25), 0.1)
    twice, labels = torch.cat([features, features]), torch.cat([torch.ones(4), torch.zeros(4)])
    split = fit_logistic(twice, labels, torch.cat([soft, 1 - soft]) / 4, 0.1)
    torch.testing.assert_close(ours, split, rtol=1e-3, atol=1e-3)


def test_separable_data_give_finite_coefficients_of_the_right_sign():
    features = torch.tensor([[-1e3], [-1.0], [1.0], [1e3]])
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0])
    w = fit_logistic(features, labels, torch.full((4,), 0.25), 1e-3)
    assert bool(torch.isfinite(w).all())
    assert float(w[0]) > 0


def test_a_warm_start_arrives_at_the_same_place_in_fewer_steps():
    generator = torch.Generator().manual_seed(0)
    labels, weights = balanced(50, 70, torch.device("cpu"))
    features = torch.randn(120, 4, generator=generator) + labels[:, None]
    cold = fit_logistic(features, labels, weights, 0.1, steps=50)
    warm = fit_logistic(features, labels, weights, 0.1, start=cold + 0.05, steps=3)
    torch.testing.assert_close(warm, cold, rtol=1e-3, atol=1e-3)


def test_the_start_is_left_as_it_was():
    start = torch.zeros(2)
    fit_logistic(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0]), torch.full((2,), 0.5), 0.1, start)
    assert start.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (3, 40), (100, 2)])
def test_balanced_sides_weigh_one_half_each(positives, negatives):
    labels, weights = balanced(positives, negatives, torch.device("cpu"))
    assert labels.tolist() == [1.0] * positives + [0.0] * negatives
    assert float(weights[:positives].sum()) == pytest.approx(0.5)
    assert float(weights[positives:].sum()) == pytest.approx(0.5)
