import copy
import dataclasses
import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import fusion_diff.micrograph.storage as storage
from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import MIN_SIDE, Micrograph, load_microstructure_data


def ramp(shape=(40, 50), dtype=np.uint16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_pixels_are_the_levels_given_as_float32():
    levels = ramp()
    micrograph = Micrograph.from_array(levels, pixel_size_um=0.5, name="ramp")
    assert micrograph.pixels.dtype == np.float32
    np.testing.assert_array_equal(micrograph.pixels, levels)
    assert (micrograph.height, micrograph.width, micrograph.channels) == (40, 50, 1)
    assert (micrograph.shape, micrograph.dtype) == ((40, 50), np.dtype(np.uint16))
    assert (micrograph.name, micrograph.source, micrograph.pixel_size_um) == ("ramp", None, 0.5)


@pytest.mark.parametrize(("shape", "expected"), [((40, 50, 1), (40, 50)), ((40, 50, 3), (40, 50, 3))])
def test_channels_last_arrays_become_grey_or_colour(shape, expected):
    assert Micrograph.from_array(ramp(shape)).shape == expected


def test_the_fourth_channel_of_an_array_is_dropped_as_alpha():
    levels = ramp((40, 50, 4))
    np.testing.assert_array_equal(Micrograph.from_array(levels).pixels, levels[..., :3])


@pytest.mark.parametrize("shape", [(40, 50, 2), (40, 50, 5), (40,), (2, 40, 50, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(MicrographError, match=r"odd: .*(channels|shape)"):
        Micrograph.from_array(ramp(shape), name="odd")


@pytest.mark.parametrize("mode", ["P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_pillow_images_whose_numbers_mean_something_else_are_refused(mode):
    image = Image.fromarray(ramp((40, 50, 3), np.uint8))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    with pytest.raises(MicrographError, match=f"odd: its pixels are of mode {mode} .*load_microstructure_data"):
        Micrograph.from_array(image, name="odd")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "I;16", "F", "RGB", "RGBA"])
def test_pillow_images_of_grey_and_rgb_are_taken(mode):
    image = Image.fromarray(ramp((40, 50), np.uint8))
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    expected = np.asarray(image)
    if mode in ("LA", "RGBA"):
        expected = expected[..., 0] if mode == "LA" else expected[..., :3]
    np.testing.assert_array_equal(Micrograph.from_array(image).pixels, expected)


def test_a_pillow_image_whose_file_is_cut_off_is_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(ramp((200, 200), np.uint8)).save(file, "PNG")
    (tmp_path / "cut.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(MicrographError, match=r"cut: .*; copy the file"):
        Micrograph.from_array(image, name="cut")


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_is_taken_whatever_its_kind_and_whether_it_has_gradients(kind):
    tensor = torch.arange(2000).reshape(40, 50).remainder(200).to(kind)
    for each in (tensor, tensor.clone().requires_grad_()) if kind.is_floating_point else (tensor,):
        np.testing.assert_array_equal(Micrograph.from_array(each).pixels, tensor.float().numpy())


def test_what_gives_no_values_is_told_to_be_made_an_array():
    class Locked:
        def __array__(self, *_args, **_options):
            raise RuntimeError("the device is gone")

    for pixels in (torch.zeros((40, 50), device="meta"), torch.eye(40).to_sparse(), Locked()):
        with pytest.raises(MicrographError, match=r"odd: its pixels are not an array .*; convert it to a NumPy array"):
            Micrograph.from_array(pixels, name="odd")


@pytest.mark.parametrize("sample", ["a.tif", b"II*", "micrograph", "path"])
def test_what_is_no_pixels_is_told_where_it_belongs(sample, tmp_path):
    sample = {"micrograph": Micrograph.from_array(ramp()), "path": tmp_path}.get(sample, sample)
    cure = "use it as it is" if isinstance(sample, Micrograph) else "load_microstructure_data"
    with pytest.raises(MicrographError, match=f"odd: expected pixels, got {type(sample).__name__}; .*{cure}"):
        Micrograph.from_array(sample, name="odd")


@pytest.mark.parametrize("dtype", [complex, object, "U3", "datetime64[s]"])
def test_dtypes_that_are_not_levels_are_refused(dtype):
    with pytest.raises(MicrographError, match="dtype"):
        Micrograph.from_array(ramp().astype(dtype))


def test_a_boolean_array_is_black_and_white():
    mask = ramp() % 3 == 0
    assert set(np.unique(Micrograph.from_array(mask).pixels)) == {0.0, 1.0}


@pytest.mark.parametrize("side", [1, MIN_SIDE - 1])
def test_a_side_shorter_than_the_least_is_refused(side):
    with pytest.raises(MicrographError, match=f"64x{side} pixels.*at least {MIN_SIDE}"):
        Micrograph.from_array(ramp((side, 64)))


def test_the_shortest_side_allowed_is_accepted():
    assert Micrograph.from_array(ramp((MIN_SIDE, MIN_SIDE))).shape == (MIN_SIDE, MIN_SIDE)


@pytest.mark.parametrize("level", [0, 7, 65535])
def test_a_constant_image_is_refused_as_having_no_contrast(level):
    with pytest.raises(MicrographError, match=f"flat: every pixel has the level {level}"):
        Micrograph.from_array(np.full((40, 40), level, np.uint16), name="flat")


def test_contrast_that_float32_cannot_hold_is_no_contrast():
    levels = np.full((40, 40), 4_000_000_000, np.uint32)
    levels[3, 4] += 1
    with pytest.raises(MicrographError, match="every pixel has the level"):
        Micrograph.from_array(levels)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64])
def test_an_offset_that_leaves_single_precision_few_steps_is_refused(dtype):
    levels = ramp(dtype=np.int64) % 100
    assert Micrograph.from_array((levels + 2**20).astype(dtype)).contrast_range == (2**20, 2**20 + 99)
    with pytest.raises(MicrographError, match=r"far: its levels range from .*; subtract the lowest level"):
        Micrograph.from_array((levels + 2**30).astype(dtype), name="far")


@pytest.mark.parametrize("levels", [ramp().astype(complex), ramp().astype(object), ramp().tolist()])
def test_the_class_itself_takes_arrays_of_real_numbers_only(levels):
    with pytest.raises(MicrographError, match=r"odd: its levels .*; use Micrograph.from_array"):
        Micrograph(levels, "odd", "0" * 64)


@pytest.mark.parametrize("contrast", [(5, 1), (1, 1), (np.nan, 1), (0, np.inf)])
def test_a_contrast_that_does_not_increase_is_refused(contrast):
    with pytest.raises(MicrographError, match="given_contrast"):
        Micrograph(ramp(), "odd", "0" * 64, given_contrast=contrast)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad, monkeypatch):
    monkeypatch.setattr(storage, "BAND_PIXELS", 200)  # several bands, so that counts are summed over them
    levels = ramp(dtype=np.float32)
    levels[17, 23] = levels[17, 24] = levels[39, 1] = bad
    with pytest.raises(MicrographError, match=r"holey: 3 values are NaN or infinite, the first at row 17, column 23"):
        Micrograph.from_array(levels, name="holey")


def test_a_double_that_overflows_float32_counts_as_infinite():
    levels = ramp(dtype=np.float64)
    levels[2, 5] = 1e300
    with pytest.raises(MicrographError, match="1 value is NaN or infinite, the first at row 2, column 5"):
        Micrograph.from_array(levels)


def test_a_single_differing_pixel_in_the_last_band_is_contrast(monkeypatch):
    monkeypatch.setattr(storage, "BAND_PIXELS", 64)
    levels = np.zeros((500, 40), np.uint8)
    levels[-1, -1] = 9
    assert Micrograph.from_array(levels).contrast_range == (0.0, 9.0)


@pytest.mark.parametrize(
    "size", [0, -1.0, 1e300, 10**400, 5e-324, float("nan"), float("inf"), "large", [1], True, np.bool_(True)]
)
def test_a_pixel_size_that_is_not_a_positive_number_is_refused(size):
    with pytest.raises(MicrographError, match="pixel_size_um"):
        Micrograph.from_array(ramp(), pixel_size_um=size)
    with pytest.raises(MicrographError, match="x: pixel_size_um"):
        Micrograph(ramp(), "x", "0" * 64, pixel_size_um=size)


def test_rows_of_uneven_length_are_refused():
    with pytest.raises(MicrographError, match=r"odd: its pixels are not an array .*; give all rows"):
        Micrograph.from_array([[1, 2], [3]], name="odd")


def test_values_that_are_masked_are_refused_and_a_mask_of_none_is_not():
    levels = np.ma.masked_less(ramp(), 7)
    with pytest.raises(MicrographError, match="holey: 7 of its values are masked; fill them"):
        Micrograph.from_array(levels, name="holey")
    with pytest.raises(MicrographError, match="holey: 7 of its values are masked; fill them"):
        Micrograph.from_array(list(levels), name="holey")
    np.testing.assert_array_equal(Micrograph.from_array(np.ma.array(ramp())).pixels, ramp())


def test_micrographs_in_an_array_stay_micrographs():
    micrographs = [Micrograph.from_array(np.arange(40 * 50).reshape(40, 50) + each) for each in range(3)]
    assert np.asarray(micrographs).shape == (3,)
    assert set(np.random.default_rng(0).permutation(micrographs)) == set(micrographs)


def test_the_digest_of_an_array_is_that_of_its_bytes():
    levels = ramp()
    digest = hashlib.sha256(levels.tobytes()).hexdigest()
    assert Micrograph.from_array(levels).sha256 == digest
    assert Micrograph.from_array(np.asfortranarray(levels)).sha256 == digest
    assert Micrograph.from_array(levels + 1).sha256 != digest


def test_changing_the_array_afterwards_does_not_change_the_micrograph():
    levels = ramp()
    micrograph = Micrograph.from_array(levels)
    levels[:] = 0
    assert micrograph.pixels.max() == ramp().max()


def test_a_micrograph_cannot_be_changed():
    micrograph = Micrograph.from_array(ramp(dtype=np.float32))
    with pytest.raises(dataclasses.FrozenInstanceError):
        micrograph.name = "other"
    for shared in (micrograph.levels, micrograph.pixels, micrograph.window(0, 0, 5, 5)):
        if np.shares_memory(shared, micrograph.levels):
            with pytest.raises(ValueError, match="read-only"):
                shared[0, 0] = 5


def test_a_micrograph_survives_pickling_and_copying():
    micrograph = Micrograph.from_array(ramp(), pixel_size_um=2.0)
    for other in (pickle.loads(pickle.dumps(micrograph)), copy.deepcopy(micrograph)):
        np.testing.assert_array_equal(other.pixels, micrograph.pixels)
        assert (other.sha256, other.pixel_size_um) == (micrograph.sha256, 2.0)
        with pytest.raises(ValueError, match="read-only"):
            other.levels[0, 0] = 5


def test_its_repr_says_what_it_is_and_holds_no_pixels():
    text = repr(Micrograph.from_array(ramp(), name="ramp"))
    assert "ramp" in text
    assert "40x50 uint16" in text
    assert len(text) < 200


@given(st.data())
def test_a_window_is_that_part_of_the_pixels(data):
    channels = data.draw(st.sampled_from([(), (3,)]))
    micrograph = Micrograph.from_array(ramp((40, 50, *channels), np.float64))
    top, left = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 49))
    height, width = data.draw(st.integers(1, 40 - top)), data.draw(st.integers(1, 50 - left))
    window = micrograph.window(top, left, height, width)
    assert window.dtype == np.float32
    np.testing.assert_array_equal(window, micrograph.pixels[top : top + height, left : left + width])


@pytest.mark.parametrize(
    "window", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (36, 0, 5, 5), (0, 46, 5, 5), (0, 0.5, 5, 5)]
)
def test_a_window_outside_the_image_is_refused(window):
    with pytest.raises(MicrographError, match="window"):
        Micrograph.from_array(ramp()).window(*window)


def test_the_contrast_range_is_the_percentiles_of_all_channels_together():
    levels = np.random.default_rng(0).normal(100, 20, (90, 80, 3))
    micrograph = Micrograph.from_array(levels)
    np.testing.assert_allclose(micrograph.contrast_range, np.percentile(levels, [0.5, 99.5]), rtol=1e-6)


def test_the_contrast_range_of_a_large_image_comes_from_a_sub_grid():
    levels = np.random.default_rng(0).integers(0, 256, (2500, 2500), dtype=np.uint8)
    micrograph = Micrograph.from_array(levels)
    assert micrograph.contrast_range == tuple(np.percentile(levels[::2, ::2], [0.5, 99.5]))


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32]),
        (MIN_SIDE, MIN_SIDE),
        elements=st.integers(0, 100),
        fill=st.just(5),
    )
)
def test_the_contrast_range_always_has_its_ends_in_order(levels):
    try:
        low, high = Micrograph.from_array(levels).contrast_range
    except MicrographError:
        assert levels.min() == levels.max()
        return
    assert low < high
    assert levels.min() <= low
    assert high <= levels.max()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_display_is_stretched_by_the_contrast_range_for_programs_that_show_floats_from_0_to_1(dtype):
    levels = np.random.default_rng(0).integers(40, 200, (40, 50, 3)).astype(dtype)
    micrograph = Micrograph.from_array(levels)
    low, high = micrograph.contrast_range
    shown = micrograph.display()
    assert (shown.dtype, shown.min(), shown.max()) == (np.float32, 0, 1)
    np.testing.assert_allclose(shown, ((levels.astype(float) - low) / (high - low)).clip(0, 1), atol=1e-6)


def test_an_array_keeps_its_data_bar_and_a_file_does_not(tmp_path):
    levels = np.random.default_rng(0).integers(20, 200, (240, 200)).astype(np.uint8)
    levels[200:] = 0
    levels[210:230:2, 20:180:3] = 255
    Image.fromarray(levels).save(tmp_path / "bar.png")
    assert load_microstructure_data(tmp_path / "bar.png").data_bar_px == 40
    whole = Micrograph.from_array(levels)
    assert (whole.height, whole.data_bar_px, whole.notes) == (240, 0, ())
