import tracemalloc
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont

import fusion_diff.micrograph.storage as storage
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.micrograph.databar import data_bar_rows

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WIDTH, HEIGHT = 512, 400


def specimen(seed=0, shape=(HEIGHT, WIDTH)):
    """A noisy 8-bit texture with structure of several sizes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 180, (12, 16), dtype=np.uint8)).resize(
        shape[::-1], Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse) + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)


def bar(style, rows, background, ink, width=WIDTH):
    """A data bar as a microscope draws it."""
    image = Image.new("L", (width, rows), background)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, rows // 3))
    if style == "one line":
        draw.text((8, rows // 3), "15.0kV 8.4mm x5.00k SE(M)  10.0um", fill=ink, font=font)
    elif style == "boxes":
        for column, (upper, lower) in enumerate(
            zip(("HV", "mag", "det", "WD"), ("10 kV", "900 x", "ETD", "4 mm"), strict=True)
        ):
            left = column * width // 4
            draw.line([(left, 0), (left, rows)], fill=ink, width=2)
            draw.text((left + 6, rows * 0.1), upper, fill=ink, font=font)
            draw.text((left + 6, rows * 0.55), lower, fill=ink, font=font)
        draw.rectangle([0, 0, width - 1, rows - 1], outline=ink)
    elif style == "rule above":
        draw.rectangle([0, 0, width, 2], fill=ink)
        draw.text((8, rows // 3), "SEI  15.0kV  X1,000  WD 10.1mm", fill=ink, font=font)
        draw.rectangle([width * 0.7, rows * 0.6, width * 0.9, rows * 0.7], fill=ink)
    return np.asarray(image)


STYLES = ["one line", "boxes", "rule above"]
TONES = [(0, 255), (255, 0), (45, 235), (128, 255)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("background", "ink"), TONES)
@pytest.mark.parametrize("rows", [28, 60])
def test_a_bar_is_found_to_the_row(style, background, ink, rows):
    image = np.concatenate([specimen(), bar(style, rows, background, ink)])
    assert data_bar_rows(image) == rows


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image.astype(np.uint16) * 257,
        lambda image: np.stack([image] * 3, axis=-1),
        lambda image: image.astype(np.float32) / 255 - 3,
        lambda image: image.astype(np.int32) - 1000,
    ],
    ids=["uint16", "colour", "float32", "int32"],
)
def test_a_bar_is_found_at_any_depth(style, convert):
    image = np.concatenate([specimen(), bar(style, 40, 0, 255)])
    assert data_bar_rows(convert(image)) == 40


def test_a_bar_of_full_scale_is_found_under_a_dim_16_bit_micrograph():
    image = np.concatenate([specimen().astype(np.uint16) * 10 + 300, bar("boxes", 40, 0, 255).astype(np.uint16) * 257])
    assert data_bar_rows(image) == 40


@pytest.mark.parametrize("quality", [90, 75])
def test_a_bar_is_found_in_a_jpeg_to_within_two_rows(tmp_path, quality):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.concatenate([specimen(), bar("one line", 44, 0, 255)])).save(path, quality=quality)
    assert load_microstructure_data(path).data_bar_px == pytest.approx(44, abs=2)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_the_bar_is_cropped_on_reading_and_left_on_demand(tmp_path, kind):
    image = np.concatenate([specimen(), bar("boxes", 40, 0, 255)])
    path = tmp_path / f"image.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, image, compression="zlib")
    else:
        path.write_bytes(imagecodecs.png_encode(image))
    micrograph = load_microstructure_data(path)
    assert micrograph.data_bar_px == 40
    np.testing.assert_array_equal(micrograph.pixels, specimen())
    whole = load_microstructure_data(path, crop_data_bar=False)
    assert (whole.data_bar_px, whole.shape) == (0, (HEIGHT + 40, WIDTH))
    assert whole.sha256 == micrograph.sha256


def test_a_bar_is_found_when_the_image_is_looked_at_in_bands(monkeypatch):
    monkeypatch.setattr(storage, "BAND_PIXELS", 3 * WIDTH)
    assert data_bar_rows(np.concatenate([specimen(), bar("boxes", 40, 0, 255)])) == 40


@pytest.mark.parametrize("claimed", [True, False])
def test_a_bar_is_found_without_the_whole_of_it_in_memory(monkeypatch, claimed):
    image = np.concatenate([specimen(shape=(780, 1024)), bar("boxes", 240, 0, 255, width=1024)])
    image = np.stack([image] * 3, axis=-1)
    monkeypatch.setattr(storage, "BAND_PIXELS", 2**15)
    monkeypatch.setattr("fusion_diff.micrograph.databar._SAMPLE_PIXELS", 2**14)
    tracemalloc.start()
    try:
        assert data_bar_rows(image, 780 if claimed else None) == 240
        assert tracemalloc.get_traced_memory()[1] < 240 * 1024 * 8
    finally:
        tracemalloc.stop()


def test_a_blank_band_at_the_bottom_is_no_bar():
    for level in (0, 128, 255):
        image = np.concatenate([specimen(), np.full((40, WIDTH), level, np.uint8)])
        assert data_bar_rows(image) == 0


def test_a_flat_layer_with_pores_under_a_straight_interface_is_no_bar():
    rng = np.random.default_rng(1)
    layer = np.clip(rng.normal(90, 4, (60, WIDTH)), 0, 255)
    layer[rng.random(layer.shape) < 0.02] = 250
    assert data_bar_rows(np.concatenate([specimen(), layer.astype(np.uint8)])) == 0


@pytest.mark.parametrize("roughness", [2, 3, 4, 6, 12])
def test_a_saturated_layer_under_a_rough_interface_is_no_bar(roughness):
    rng = np.random.default_rng(2)
    image = specimen(shape=(HEIGHT + 60, WIDTH)).copy()
    edge = HEIGHT + np.cumsum(rng.integers(-1, 2, WIDTH)) % roughness
    image[np.arange(HEIGHT + 60)[:, None] >= edge] = 0
    for row, column in zip(rng.integers(HEIGHT + 15, HEIGHT + 55, 60), rng.integers(0, WIDTH - 5, 60), strict=True):
        image[row : row + 3, column : column + 3] = 220
    assert data_bar_rows(image) == 0


def test_text_written_into_the_micrograph_is_no_bar():
    image = Image.fromarray(specimen())
    ImageDraw.Draw(image).text(
        (10, HEIGHT - 40), "10 um   15 kV   x5000", fill=255, font=ImageFont.load_default(size=20)
    )
    assert data_bar_rows(np.asarray(image)) == 0


def test_a_drawing_with_a_caption_is_no_micrograph_with_a_bar():
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[:, ::64] = 200
    assert data_bar_rows(np.concatenate([image, bar("one line", 40, 30, 255)])) == 0


def test_more_than_a_quarter_of_the_image_is_never_taken_for_a_bar():
    assert data_bar_rows(np.concatenate([specimen()[:200], bar("one line", 100, 0, 255)])) == 0


@pytest.mark.parametrize("true_height", [0, -5, 200, HEIGHT + 40, 10**9])
def test_a_true_height_that_would_crop_too_much_or_nothing_is_not_believed(true_height):
    assert data_bar_rows(specimen(shape=(HEIGHT + 40, WIDTH)), true_height) == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("background", "ink"), TONES)
@pytest.mark.parametrize("rows", [20, 28, 60, 100])
@pytest.mark.parametrize("convert", [np.uint8, lambda image: image.astype(np.uint16) * 257])
def test_a_bar_that_metadata_tell_of_is_cut_off_under_whatever_stands_above_it(style, background, ink, rows, convert):
    for image in (specimen(), np.full((HEIGHT, WIDTH), background, np.uint8) ^ (specimen() > 170)):
        assert data_bar_rows(convert(np.concatenate([image, bar(style, rows, background, ink)])), HEIGHT) == rows


@pytest.mark.parametrize("rows", [12, 50, 100])
def test_rows_of_the_micrograph_are_not_cut_off_because_metadata_call_them_a_bar(rows):
    image = specimen()
    assert data_bar_rows(image, HEIGHT - rows) == 0
    # A crack through a saturated layer: one level without noise, but the crack is not text.
    saturated = image.copy()
    saturated[-rows:] = 255
    for column in range(WIDTH):
        middle = HEIGHT - rows // 2 + int(3 * np.sin(column / 40))
        saturated[middle - 2 : middle + 2, column] = 0
    assert data_bar_rows(saturated, HEIGHT - rows) == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("more", [1, 10, 40])
def test_metadata_that_call_more_than_the_bar_a_bar_hide_nothing_of_the_micrograph(style, more):
    assert data_bar_rows(np.concatenate([specimen(), bar(style, 40, 0, 255)]), HEIGHT - more) == 40


@pytest.mark.parametrize("shape", [(32, 32), (33, 200), (60, 40)])
def test_small_images_have_no_bar(shape):
    assert data_bar_rows(specimen(shape=shape)) == 0


@pytest.mark.parametrize(
    "folder",
    ["ebc_micrographs/images", "ebc_crack", "ferrite_tile/images/free", "jun_glaze/china1", "ceramic_sem_gallery"],
)
def test_no_real_micrograph_without_a_bar_is_cropped(folder):
    if not (DATA / folder).exists():
        pytest.skip("the real micrographs are not here")
    files = sorted(path for path in (DATA / folder).rglob("*") if path.suffix in (".png", ".jpg", ".tif", ".bmp"))
    sample = files[:: max(1, len(files) // 12)]
    assert [path.name for path in sample if load_microstructure_data(path).data_bar_px] == []


@pytest.mark.parametrize("style", STYLES)
def test_a_bar_drawn_under_a_real_micrograph_is_found(style):
    folder = DATA / "ebc_micrographs" / "images"
    if not folder.exists():
        pytest.skip("the real micrographs are not here")
    for path in sorted(folder.iterdir())[:4]:
        image = np.asarray(Image.open(path).convert("L"))
        assert data_bar_rows(np.concatenate([image, bar(style, 64, 0, 255, image.shape[1])])) == 64
