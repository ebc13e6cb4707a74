"""A reading of parts equals one of the whole micrograph."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.classes import top_limit
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import Part
from fusion_diff.verdict.model_evidence import ModelEvidence

CHANNELS = 8


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    def bag(seed: int, flawed: int) -> Bag:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(300, CHANNELS, generator=generator)
        tokens[:flawed, 0] += 6
        return Bag(tokens, torch.rand(300, 2, generator=generator))

    bags = [bag(seed, 0) for seed in range(6)] + [bag(100 + seed, 15) for seed in range(6)]
    return Verifier.fit(bags, ["sound"] * 6 + ["crack"] * 6, "sound", [str(i) for i in range(12)])


def parts_of(tokens: torch.Tensor, residual: torch.Tensor, cuts: tuple[int, ...]) -> list[Part]:
    """Cut maps (rows, columns, ...) at these columns."""
    rows, columns = tokens.shape[:2]
    return [
        Part(
            (0, rows),
            (left, right),
            tokens[:, left:right].reshape(-1, CHANNELS),
            residual[:, left:right].reshape(-1, 2),
            torch.zeros(1, 4),
        )
        for left, right in pairwise((0, *cuts, columns))
    ]


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with a flaw at rows 5 to 20, columns 2 to 10: half of the first of four parts."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(30, 60, CHANNELS, generator=generator)
    tokens[5:20, 2:10, 0] += 6
    return tokens, torch.rand(30, 60, 2, generator=generator)


GRID = Grid(30, 60, 1 / 8, 28, 8)


@pytest.mark.parametrize("cuts", [(), (30,), (15, 30, 45), (1, 59)])
def test_the_evidence_does_not_depend_on_the_cuts(verifier, maps, cuts):
    whole = ModelEvidence.of(GRID, parts_of(*maps, ()), verifier)
    cut = ModelEvidence.of(GRID, parts_of(*maps, cuts), verifier)
    np.testing.assert_allclose(cut.evidence, whole.evidence, rtol=1.3e-6, atol=1e-5)
    torch.testing.assert_close(cut.mean_token, whole.mean_token)
    assert cut.fused == pytest.approx(whole.fused, rel=1e-5)
    assert cut.log_odds == pytest.approx(whole.log_odds, rel=1e-5)
    assert cut.strangeness == pytest.approx(whole.strangeness, rel=1e-5)
    assert cut.contributions == pytest.approx(whole.contributions, rel=1e-4)
    sort = cut.strongest.sum(1).sort().values, whole.strongest.sum(1).sort().values
    torch.testing.assert_close(*sort)


@pytest.mark.parametrize("count", [2, 3, 32])
def test_the_evidence_does_not_depend_on_how_many_parts_are_judged_at_once(verifier, maps, count, monkeypatch):
    """An accelerator judges many at once."""
    one_by_one = ModelEvidence.of(GRID, parts_of(*maps, (15, 30, 45)), verifier)
    monkeypatch.setattr("fusion_diff.verdict.model_evidence.BATCH", count)
    together = ModelEvidence.of(GRID, parts_of(*maps, (15, 30, 45)), verifier)
    np.testing.assert_allclose(together.evidence, one_by_one.evidence, rtol=1.3e-6, atol=1e-5)
    torch.testing.assert_close(together.mean_token, one_by_one.mean_token)
    assert together.log_odds == pytest.approx(one_by_one.log_odds, rel=1e-5)
    assert together.strangeness == pytest.approx(one_by_one.strangeness, rel=1e-5)
    torch.testing.assert_close(together.strongest.sort(0).values, one_by_one.strongest.sort(0).values)


@pytest.mark.parametrize("order", [1, -1])
def test_the_evidence_does_not_depend_on_the_order_of_its_parts(verifier, maps, order):
    parts = parts_of(*maps, (15, 30, 45))[::order]
    whole = ModelEvidence.of(GRID, parts_of(*maps, ()), verifier)
    np.testing.assert_allclose(ModelEvidence.of(GRID, parts, verifier).evidence, whole.evidence, rtol=1.3e-6, atol=1e-5)
    assert ModelEvidence.of(GRID, parts, verifier).fused == pytest.approx(whole.fused, rel=1e-5)


def test_the_strongest_tokens_are_those_of_the_whole_micrograph_and_not_of_every_part(verifier, maps):
    found = ModelEvidence.of(GRID, parts_of(*maps, (15, 30, 45)), verifier)
    assert len(found.strongest) == top_limit(30 * 60) == 18
    unscaled = found.strongest[:, 0] * verifier.heads.scale.std[0] + verifier.heads.scale.mean[0]
    assert float((unscaled > 3).float().mean()) > 0.95  # the flaw has 120 tokens


def test_contributions_add_up_with_the_intercept(verifier, maps):
    found = ModelEvidence.of(GRID, parts_of(*maps, (30,)), verifier)
    total = sum(found.contributions.values()) + verifier.calibration.intercept
    assert total == pytest.approx(found.log_odds, rel=1e-4)


def test_strangeness_is_the_mean_distance_of_all_tokens_to_the_references(verifier, maps):
    found = ModelEvidence.of(GRID, parts_of(*maps, (15, 30)), verifier)
    tokens = verifier.heads.scale(maps[0].flatten(0, 1))
    expected = (tokens[:, None] - verifier.scope.bank[None]).norm(dim=2).amin(1).mean()
    assert found.strangeness == pytest.approx(float(expected), rel=1e-4)
    assert found.strangeness < verifier.scope.limit, "a flaw of 120 tokens in 1800 does not put it out of scope"
    elsewhere = ModelEvidence.of(GRID, parts_of(4 * maps[0], maps[1], ()), verifier)
    assert elsewhere.strangeness > verifier.scope.limit


def test_the_evidence_lies_where_the_flaw_is(verifier, maps):
    evidence = ModelEvidence.of(GRID, parts_of(*maps, (30,)), verifier).evidence
    flawed = np.zeros((30, 60), dtype=bool)
    flawed[5:20, 2:10] = True
    assert np.quantile(evidence[flawed], 0.05) > np.quantile(evidence[~flawed], 0.95)
    assert (evidence[flawed] > 0).mean() > 0.6 > 0.02 > (evidence[~flawed] > 0).mean()


def test_the_evidence_has_a_value_per_token(verifier, maps):
    evidence = ModelEvidence.of(GRID, parts_of(*maps, (15, 30, 45)), verifier).evidence
    assert (evidence.dtype, evidence.shape) == (np.float32, (30, 60))
