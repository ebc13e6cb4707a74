from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from fusion_diff.errors import ArgumentError
from fusion_diff.synthetic import DESCRIPTOR_NAMES, FLAWS, MATERIALS, SyntheticMicrograph, generate

LOCAL_FLAWS = [flaw for flaw in FLAWS if flaw != "counterfeit"]


def _digest(micrograph: SyntheticMicrograph) -> str:
    return hashlib.sha256(
        micrograph.pixels.tobytes() + micrograph.mask.tobytes() + micrograph.descriptor.tobytes()
    ).hexdigest()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**70), size=st.integers(32, 80), lot=st.one_of(st.none(), st.integers(0, 2**40)))
def test_any_seed_gives_a_valid_micrograph_twice_the_same(seed: int, size: int, lot: int | None) -> None:
    drawn = generate(seed, size=size, lot=lot)
    assert drawn.pixels.shape == drawn.mask.shape == (size, size)
    assert drawn.pixels.dtype == np.float32
    assert drawn.mask.dtype == np.uint8
    assert drawn.pixels.min() >= 0
    assert drawn.pixels.max() <= 1
    assert drawn.pixels.std() > 0.005
    assert 0.02 < drawn.pixel_size_um <= 5
    assert drawn.material in MATERIALS
    assert drawn.flaw == "sound" or drawn.flaw in FLAWS
    assert _digest(drawn) == _digest(generate(seed, size=size, lot=lot))


def test_what_was_drawn_before_does_not_matter() -> None:
    alone = _digest(generate(7, size=64))
    for seed in range(5):
        generate(seed, size=48)
    np.random.default_rng(0).random(10)
    assert _digest(generate(7, size=64)) == alone


def test_numpy_integers_are_seeds_like_any_other() -> None:
    assert _digest(generate(np.int64(5), size=64, lot=np.int32(1))) == _digest(generate(5, size=64, lot=1))


def test_different_seeds_give_different_micrographs() -> None:
    digests = {_digest(generate(seed, size=48, material="alumina", flaw="sound")) for seed in range(20)}
    assert len(digests) == 20


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("flaw", ["sound", *FLAWS])
def test_every_material_takes_every_flaw(material: str, flaw: str) -> None:
    for seed, size in ((1, 64), (2, 96)):
        drawn = generate(seed, size=size, material=material, flaw=flaw)
        assert drawn.material == material
        assert drawn.flaw == flaw
        values = np.unique(drawn.mask)
        if flaw == "sound":
            assert values.tolist() == [0]
        else:
            value = FLAWS.index(flaw) + 1
            assert set(values.tolist()) <= {0, value}
            assert np.count_nonzero(drawn.mask == value) >= 8
        assert drawn.descriptor.shape == (len(DESCRIPTOR_NAMES),)
        assert drawn.descriptor.dtype == np.float32
        assert np.isfinite(drawn.descriptor).all()
        assert np.abs(drawn.descriptor).max() <= 1


@pytest.mark.parametrize("flaw", LOCAL_FLAWS)
@pytest.mark.parametrize("material", MATERIALS)
def test_a_flaw_changes_the_sound_image_in_its_mask_and_nowhere_else(flaw: str, material: str) -> None:
    for seed in (3, 4):
        flawed, sound = (generate(seed, size=96, material=material, flaw=kind) for kind in (flaw, "sound"))
        change = np.abs(flawed.pixels - sound.pixels)
        inside = flawed.mask > 0
        # Blur, bright flanks and the soft edges of uneven bands extend slightly beyond the mask.
        outside = ~binary_dilation(inside, iterations=16 if flaw in ("uneven", "fray") else 9)
        assert change[inside].mean() > 0.015
        if outside.any():
            assert change[outside].mean() < 0.1 * change[inside].mean()


def test_a_flaw_stays_visible_through_the_noise() -> None:
    for flaw in LOCAL_FLAWS:
        for seed in range(4):
            flawed, sound = (generate(seed, size=96, flaw=kind) for kind in (flaw, "sound"))
            change = np.abs(flawed.pixels - sound.pixels)
            assert change[flawed.mask > 0].mean() > 2 * change[flawed.mask == 0].mean()


def test_cracks_are_darker_than_the_sound_surface() -> None:
    for seed in range(10):
        flawed, sound = (generate(seed, size=128, flaw=kind) for kind in ("crack", "sound"))
        assert (flawed.pixels - sound.pixels)[flawed.mask > 0].mean() < -0.02


def test_cracks_are_thin_and_some_are_hairlines() -> None:
    from scipy.ndimage import distance_transform_edt

    widths = [
        2 * distance_transform_edt(generate(seed, size=128, material="glaze", flaw="crack").mask > 0).mean()
        for seed in range(30)
    ]
    assert min(widths) < 2.2
    assert max(widths) < 8


def test_a_counterfeit_is_the_whole_image_with_another_grain_size_at_the_same_magnification() -> None:
    column = DESCRIPTOR_NAMES.index("grain_px")
    for material in MATERIALS:
        genuine, fake = (generate(11, size=64, material=material, flaw=kind) for kind in ("sound", "counterfeit"))
        assert (fake.mask == FLAWS.index("counterfeit") + 1).all()
        assert fake.pixel_size_um == pytest.approx(genuine.pixel_size_um)
        assert abs(fake.descriptor[column] - genuine.descriptor[column]) > 0.1


def test_specimens_of_a_lot_are_more_alike_than_specimens_of_different_lots() -> None:
    parameters = len(DESCRIPTOR_NAMES) - len(FLAWS)
    lots = np.stack(
        [
            [
                generate(seed, size=32, material="alumina", flaw="sound", lot=lot).descriptor[:parameters]
                for seed in range(6)
            ]
            for lot in range(8)
        ]
    )
    within = lots.std(axis=1).mean()
    between = lots.mean(axis=1).std(axis=0).mean()
    assert 0 < within < 0.3 * between


def test_a_lot_has_one_magnification() -> None:
    sizes = [generate(seed, size=32, material="zirconia", lot=3).pixel_size_um for seed in range(8)]
    assert sizes == pytest.approx([sizes[0]] * 8)


def test_a_larger_image_has_the_same_physical_parameters() -> None:
    small, large = (generate(5, size=size, material="glaze", flaw="sound") for size in (48, 128))
    assert small.pixel_size_um == large.pixel_size_um
    np.testing.assert_array_equal(small.descriptor, large.descriptor)


def test_random_draws_meet_all_materials_and_flaws() -> None:
    drawn = [generate(seed, size=32) for seed in range(150)]
    assert {item.material for item in drawn} == set(MATERIALS)
    assert {item.flaw for item in drawn} == {"sound", *FLAWS}
    assert 0.25 < np.mean([item.flaw == "sound" for item in drawn]) < 0.55


def test_the_descriptor_names_the_material_and_the_flaw() -> None:
    drawn = generate(2, size=64, material="ferrite", flaw="fray")
    said = dict(zip(DESCRIPTOR_NAMES, drawn.descriptor, strict=True))
    assert [name for name in MATERIALS if said[f"material_{name}"] == 1] == ["ferrite"]
    assert [name for name in FLAWS if said[f"flaw_{name}"] == 1] == ["fray"]
    assert said["flaw_area"] == pytest.approx((np.count_nonzero(drawn.mask) / drawn.mask.size) ** 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 0, "size": 16},
        {"seed": 0, "size": 100_000},
        {"seed": 0, "material": "cheese"},
        {"seed": 0, "flaw": "rust"},
        {"seed": 0, "lot": -3},
        {"seed": 0.5},
        {"seed": 0, "size": "224"},
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match=r"must be|unknown|give an integer"):
        generate(**arguments)  # type: ignore[arg-type]
