"""Purification and the detection of attacks by it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fusion_diff.diffusion.purification import Purification
from fusion_diff.errors import EnrolmentError
from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.record import to_line
from fusion_diff.inspection.run import Outcome
from fusion_diff.judging import read, strangeness
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.perception import perceive
from fusion_diff.references import ReferenceSet
from fusion_diff.synthetic import builtin_samples, generate
from fusion_diff.verdict.attacked import PURIFIED, WITHHELD, AttackTest


def surface(seed: int, *, size: int = 224) -> Micrograph:
    return Micrograph.from_array(generate(seed, size=size, material="alumina", flaw="sound").pixels)


@pytest.fixture(scope="module")
def purify(embedded: DiffusionModel) -> Purification:
    return Purification(embedded.reconstruction.prior, embedded.enrolment.condition)


@pytest.fixture(scope="module")
def defended(embedded: DiffusionModel) -> DiffusionModel:
    """A model enrolled with three references of each class, with their shifts."""
    model = copy.deepcopy(embedded)
    drawn = [
        (flaw, generate(70 + i, size=224, material="alumina", flaw=flaw))
        for flaw in ("sound", "crack")
        for i in range(3)
    ]
    micrographs = [Micrograph.from_array(each.pixels) for _, each in drawn]
    model.enroll(
        ReferenceSet.from_micrographs(micrographs, [flaw for flaw, _ in drawn], authentic="sound"), detect_attacks=True
    )
    return model


def inspect(model: DiffusionModel, micrograph: Micrograph, **options: float):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.inspect(micrograph, **options)


def test_a_purified_tile_is_near_the_tile_and_the_same_every_time(purify: Purification) -> None:
    tile = torch.from_numpy(surface(1).pixels.copy())[None, None].expand(1, 3, 224, 224).contiguous()
    with torch.inference_mode():
        first, again = purify(tile), purify(tile)
    assert torch.equal(first, again)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert not torch.equal(first, tile)
    coarse, given = (F.avg_pool2d(each, 8).flatten() for each in (first, tile))  # the finest grain is changed
    assert float(torch.corrcoef(torch.stack([coarse, given]))[0, 1]) > 0.9


def test_purification_takes_away_most_of_a_fine_perturbation(purify: Purification) -> None:
    tile = torch.from_numpy(surface(2).pixels.copy())[None, None].expand(1, 3, 224, 224).contiguous()
    pattern = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], (1, 1, 224, 224))).float()
    changed = (tile + 4 / 255 * pattern).clamp(0, 1)
    with torch.inference_mode():
        left = purify(changed) - purify(tile)
    assert float(left.square().mean()) < 0.25 * float((changed - tile).square().mean())


def test_a_tile_is_purified_alike_alone_and_in_a_batch(purify: Purification) -> None:
    tiles = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(purify(tiles)[1:], purify(tiles[1:]), atol=1e-4, rtol=0)


def test_the_gradient_flows_through_the_purification(purify: Purification) -> None:
    tile = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_()
    purify(tile).square().mean().backward()
    assert tile.grad is not None
    assert tile.grad.isfinite().all()
    assert float(tile.grad.abs().max()) > 0


def test_without_a_seed_no_noise_is_added(embedded: DiffusionModel) -> None:
    quiet = Purification(embedded.reconstruction.prior, embedded.enrolment.condition, noise_seed=None)
    tile = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(quiet(tile), quiet(tile, noise=torch.zeros(4, 56, 56)))


def test_perception_purifies_every_tile_before_it_is_encoded(purify: Purification, embedded: DiffusionModel) -> None:
    seen: list[torch.Tensor] = []

    def residual(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return pixels.new_zeros(len(pixels), 2, 28, 28)

    micrograph = surface(3, size=240)
    grid, parts = perceive(micrograph, embedded.encoder, purify=purify, residual=residual)
    tokens = [part.tokens for part in parts]
    tiles = torch.from_numpy(np.stack([grid.read(micrograph, tile) for tile in grid.tiles()]))
    with torch.inference_mode():
        torch.testing.assert_close(torch.cat(seen), purify(tiles), atol=1e-4, rtol=0)
    assert len(tokens) == 4
    assert sum(map(len, tokens)) == grid.rows * grid.columns == 900


def test_a_purified_inspection_says_so_and_differs(embedded: DiffusionModel) -> None:
    micrograph = surface(4)
    plain, regenerated = inspect(embedded, micrograph), inspect(embedded, micrograph, purify=True)
    assert (plain.purified, regenerated.purified) == (False, True)
    assert plain.score != regenerated.score
    assert PURIFIED in regenerated.reasons
    assert PURIFIED not in plain.reasons
    assert regenerated.score == inspect(embedded, micrograph, purify=True).score


def test_purification_leaves_the_scope_as_it_is_and_says_what_its_score_is_compared_with(
    embedded: DiffusionModel, defended: DiffusionModel
) -> None:
    """The limit of the scope is set on references that were not purified; regenerated, all of these were beyond it."""
    enrolment = embedded.enrolment
    drawn, _ = builtin_samples(1)
    for each in drawn:
        micrograph = Micrograph.from_array(each.pixels)
        assert strangeness(embedded, enrolment, micrograph) == read(embedded, enrolment, micrograph).strangeness
        assert inspect(embedded, micrograph, purify=True).in_scope == inspect(embedded, micrograph).in_scope is True
    purify = Purification(embedded.reconstruction.prior, enrolment.condition)
    assert read(embedded, enrolment, micrograph, purify=purify).strangeness > enrolment.scope_limit
    for options in ({"purify": True}, {"purify": True, "detect_attacks": True}):
        it = inspect(defended, surface(71), **options)
        assert it.in_scope
        assert PURIFIED in it.reasons
        assert not inspect(defended, noise(), **options).in_scope


def noise() -> Micrograph:
    return Micrograph.from_array(np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8))


def test_records_have_the_fields_only_where_they_were_asked_for(make_inspection: Callable) -> None:
    plain = to_line(Outcome(Path("a.tif"), make_inspection()))
    assert "attacked" not in plain
    assert "purified" not in plain
    told = to_line(Outcome(Path("a.tif"), make_inspection(purified=True, attacked=False)))
    assert '"purified": true' in told
    assert '"attacked": false' in told


def test_an_untouched_micrograph_raises_no_alarm_and_a_tuned_one_does(defended: DiffusionModel) -> None:
    enrolment, size = defended.enrolment, 224
    assert len(enrolment.shifts) == 6
    micrograph = Micrograph.from_array(generate(91, size=224, material="alumina", flaw="sound").pixels)
    plain = inspect(defended, micrograph, detect_attacks=True)
    assert plain.attacked is False
    assert any("No sign" in reason for reason in plain.reasons)

    # A few gradient steps on the multiple-instance evidence, as by an attacker with access to the model.
    low, high = micrograph.contrast_range
    pixels = torch.from_numpy((micrograph.pixels - low) / (high - low)).clamp(0, 1)
    changed = pixels.clone()
    heads = enrolment.verifier.heads
    for _ in range(8):
        changed.requires_grad_()
        tile = changed.expand(1, 3, size, size)
        texture = defended.encoder.local_norm(defended.encoder.local_path._texture(tile)[0])
        structure = defended.encoder(tile).structure
        tokens = torch.cat([texture, structure], 1).flatten(2)[0].T
        evidence = sum(heads.maps(tokens, tokens.new_zeros(len(tokens), 0)).values())
        (gradient,) = torch.autograd.grad(evidence.topk(40).values.sum(), changed)
        step = changed.detach() + 2 / 255 * gradient.sign()
        changed = torch.minimum(torch.maximum(step, pixels - 6 / 255), pixels + 6 / 255).clamp(0, 1)
    tuned = Micrograph.from_array((changed * (high - low) + low).numpy())
    caught = inspect(defended, tuned, detect_attacks=True)
    assert caught.score < plain.score
    assert caught.attacked is True
    assert any("tuned to mislead" in reason and "more than" in reason for reason in caught.reasons)


def test_shifts_are_saved_with_the_enrolment(defended: DiffusionModel, tmp_path: Path) -> None:
    defended.save_pretrained(tmp_path / "saved")
    again = DiffusionModel.from_pretrained(tmp_path / "saved")
    assert again.enrolment.shifts == defended.enrolment.shifts


def test_attacks_are_not_told_with_fewer_shots_whose_log_odds_are_on_another_scale(defended: DiffusionModel) -> None:
    with pytest.raises(EnrolmentError, match=r"attacks cannot be detected; .* leave out the shots"):
        defended.inspect(surface(6), shots=2, detect_attacks=True)
    assert defended.inspect(surface(6), shots=2).attacked is None
    assert defended.inspect(surface(6), shots=3, detect_attacks=True).attacked is not None, "these are all references"


def test_attacks_cannot_be_told_where_shifts_were_not_measured(enrolled_without: DiffusionModel) -> None:
    encoded: list[object] = []
    with (
        enrolled_without.encoder.register_forward_hook(lambda _module, _args, out: encoded.append(out)),
        pytest.raises(EnrolmentError, match="--detect-attacks"),
    ):
        enrolled_without.inspect(surface(6), detect_attacks=True)
    assert encoded == [], "it is refused before the micrograph is encoded"


@pytest.fixture(scope="module")
def enrolled_without(embedded: DiffusionModel) -> DiffusionModel:
    model = copy.deepcopy(embedded)
    model.enroll(ReferenceSet.from_micrographs([surface(i) for i in range(2)], ["sound"] * 2, authentic="sound"))
    return model


def each_its_own(shifts: Sequence[float]) -> AttackTest:
    return AttackTest(tuple(shifts), [str(index) for index in range(len(shifts))])


shifts = st.lists(st.tuples(st.floats(0, 100), st.sampled_from("abcdefgh")), min_size=1, max_size=60)


@given(shifts, st.floats(-120, 120))
def test_the_alarm_is_raised_exactly_beyond_the_threshold(known: list[tuple[float, str]], shift: float) -> None:
    test = AttackTest(tuple(each for each, _ in known), [group for _, group in known])
    assert test.judge(shift)[0] == (abs(shift) > test.threshold)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=60, unique=True))
def test_of_exchangeable_micrographs_no_more_than_the_stated_share_raise_it(values: list[float]) -> None:
    alarms = [each_its_own(values[:i] + values[i + 1 :]).judge(values[i])[0] for i in range(len(values))]
    stated = each_its_own(values[1:]).false_alarms
    assert np.mean(alarms) <= stated + 1e-9


def test_few_references_are_said_to_be_few() -> None:
    assert (
        "raises the alarm. With 3 references the false-alarm rate is 25 %; 19 would"
        in each_its_own((1.0, 2.0, 3.0)).judge(0.0)[1]
    )
    assert "With" not in each_its_own(range(19)).judge(0.0)[1]


def test_images_of_a_specimen_have_one_voice_in_the_alarm() -> None:
    test = AttackTest(tuple(map(float, range(40))), ["A"] * 20 + ["B"] * 20)
    assert test.false_alarms == pytest.approx(1 / 3)
    assert test.threshold == 39.0
    assert "With 2 specimens the false-alarm rate is 33 %" in test.judge(0.0)[1]


def test_an_alarm_withholds_the_decision_authentic_alone_and_the_ledger_keeps_it(embedded: DiffusionModel) -> None:
    model = copy.deepcopy(embedded)
    model.enroll(ReferenceSet.from_micrographs([surface(i) for i in range(10, 14)], ["sound"] * 4, authentic="sound"))
    micrograph = surface(15)
    plain = inspect(model, micrograph, alpha=0.2)
    assert plain.decision == "authentic"
    model.enrolment = replace(model.enrolment, shifts=(0.0,) * 4)  # now any shift is detected as an attack
    alarmed = inspect(model, micrograph, alpha=0.2, detect_attacks=True)
    assert (alarmed.attacked, alarmed.decision, alarmed.score) == (True, "inconclusive", plain.score)
    assert alarmed.reasons[-1] == WITHHELD
    kept = verdict(Outcome(Path("a.tif"), alarmed), alpha=0.2, pixel_size_um=None)
    assert kept["attacked"] is True
    assert "purified" not in kept
    assert "attacked" not in verdict(Outcome(Path("a.tif"), plain), alpha=0.2, pixel_size_um=None)
    verifier = model.enrolment.verifier
    model.enrolment = replace(model.enrolment, verifier=replace(verifier, inside=verifier.inside - 100))
    strange = inspect(model, micrograph, alpha=0.2, detect_attacks=True)
    assert (strange.attacked, strange.decision) == (True, "not authentic")
