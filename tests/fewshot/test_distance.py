from __future__ import annotations

import pytest
import torch

from fusion_diff.fewshot.distance import nearest


def test_the_nearest_distance_is_that_of_a_search_through_all():
    generator = torch.Generator().manual_seed(0)
    tokens, bank = torch.randn(50, 40, generator=generator), torch.randn(30, 40, generator=generator)
    every = (tokens[:, None].double() - bank[None].double()).norm(dim=2)
    assert nearest(tokens, bank).double().numpy() == pytest.approx(every.amin(1).numpy(), abs=1e-5)


def test_a_token_of_the_bank_is_at_no_distance():
    bank = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert nearest(bank, bank).tolist() == [0.0, 0.0]
