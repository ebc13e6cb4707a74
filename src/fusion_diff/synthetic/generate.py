"""Generation of procedural micrographs of ceramics: a specimen, its flaw with the exact mask, and its image."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from fusion_diff.errors import ArgumentError
from fusion_diff.synthetic.flaws import PAINTERS
from fusion_diff.synthetic.imaging import expose
from fusion_diff.synthetic.materials import MATERIALS
from fusion_diff.synthetic.recipes import Recipe, draw_recipe, forge, scaled
from fusion_diff.synthetic.surfaces import Canvas, light, paint

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLAWS: tuple[str, ...] = (*PAINTERS, "counterfeit")
"""Names of the flaws. `FLAWS[i]` has the value `i + 1` in masks; "sound" means no flaw."""

_NUMBERS = (
    "grain_px",
    "spread",
    "elongation",
    "porosity",
    "pore_px",
    "glass",
    "second",
    "second_px",
    "second_grey",
    "matrix",
    "grain_contrast",
    "boundary_contrast",
    "relief",
    "streaks",
    "shading",
    "edge",
    "noise",
    "blur",
    "contrast",
)

DESCRIPTOR_NAMES: tuple[str, ...] = (
    *_NUMBERS,
    "pixel_size",
    "etched",
    "fracture",
    "flaw_area",
    *(f"material_{name}" for name in MATERIALS),
    *(f"flaw_{name}" for name in FLAWS),
)
"""Names of the numbers of a descriptor: parameters in [-1, 1]; `flaw_area`, the square root of the flaw's share of the
area; and indicators that are 0 or 1."""

_SOUND_SHARE = 0.4
_LEAST_VISIBLE = 0.02
_LEAST_PIXELS = 12
_TRIES = 6


@dataclass(frozen=True, eq=False)
class SyntheticMicrograph:
    """A procedural micrograph with its ground truth.

    Attributes:
        pixels: float32 (S, S) in [0, 1].
        mask: uint8 (S, S), 0 where sound, otherwise the flaw's value (see `FLAWS`).
        flaw: "sound" or one of `FLAWS`.
        descriptor: float32 (D,) physical and imaging parameters in [-1, 1], named by `DESCRIPTOR_NAMES`.
        pixel_size_um: side of a pixel in micrometres.
        material: one of `MATERIALS`.
    """

    pixels: NDArray[np.float32]
    mask: NDArray[np.uint8]
    flaw: str
    descriptor: NDArray[np.float32]
    pixel_size_um: float
    material: str


def generate(
    seed: int, *, size: int = 256, material: str | None = None, flaw: str | None = None, lot: int | None = None
) -> SyntheticMicrograph:
    """Generate a micrograph. The same arguments always give the same micrograph.

    For the same seed, material and lot, a local flaw changes the sound micrograph only near its mask.

    Args:
        seed: an integer of at least 0.
        size: side in pixels, 32 to 4096. A larger image shows more of the specimen at the same magnification. Some 4000
            pores and 3000 particles of a second phase are drawn at most. So from some 200 pixels on where they are many
            and small, and from 1000 elsewhere, a larger image has fewer of them on the same area.
        material: one of `MATERIALS`; random when omitted.
        flaw: "sound" or one of `FLAWS`; random when omitted, with a probability of 0.4 for "sound".
        lot: the production lot, an integer of at least 0. Specimens of one lot share material parameters,
            magnification and imaging up to slight differences, and counterfeits of one lot share a recipe. When
            omitted, every specimen is a lot of its own.

    Returns:
        The micrograph.

    Raises:
        ArgumentError: an argument is not an integer, out of range or not a known name.
    """
    _check(seed, size, material, flaw, lot)
    seed, size, lot = operator.index(seed), operator.index(size), None if lot is None else operator.index(lot)
    choice = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    drawn_material = MATERIALS[int(choice.integers(len(MATERIALS)))]
    drawn_flaw = "sound" if choice.uniform() < _SOUND_SHARE else FLAWS[int(choice.integers(len(FLAWS)))]
    material = drawn_material if material is None else material
    flaw = drawn_flaw if flaw is None else flaw

    # Each stage has its own stream of random numbers, so that no stage shifts the numbers of another.
    key = (0 if lot is None else lot + 1, MATERIALS.index(material))
    specimen, base, flaws, imaging = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stage, *key))) for stage in (1, 2, 3, 4)
    )
    if lot is None:
        make, forger = specimen, flaws
    else:
        make, forger = (
            np.random.default_rng(np.random.SeedSequence(lot, spawn_key=(stage, key[1]))) for stage in (5, 6)
        )
    recipe = draw_recipe(material, make, specimen, of_a_lot=lot is not None)
    if flaw == "counterfeit":
        recipe = forge(recipe, forger, specimen)
    angle = float(imaging.uniform(0, 2 * np.pi)) if lot is None else float(make.uniform(0, 2 * np.pi))
    canvas = paint(recipe, size, base)
    surface = light(canvas, recipe, angle)
    mask = np.zeros((size, size), dtype=np.uint8)
    if flaw == "counterfeit":
        mask[:] = FLAWS.index(flaw) + 1
    elif flaw != "sound":
        surface, marked = _flawed(canvas, surface, recipe, angle, flaw, flaws)
        mask[marked] = FLAWS.index(flaw) + 1
    pixels = expose(surface, recipe, imaging)
    area = float(np.count_nonzero(mask)) / mask.size
    return SyntheticMicrograph(
        pixels=pixels,
        mask=mask,
        flaw=flaw,
        descriptor=_describe(recipe, flaw, area),
        pixel_size_um=recipe.pixel_size_um,
        material=material,
    )


def _flawed(
    canvas: Canvas, sound: NDArray[np.float32], recipe: Recipe, angle: float, flaw: str, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Paint the flaw. If it is invisible at its place, try other places and keep the most visible one."""
    # Faint flaws are wanted, but a flaw hidden by noise and grains would make the label wrong.
    clutter = 0.5 * recipe.noise + 0.7 * float(sound.std())
    best: tuple[float, NDArray[np.float32], NDArray[np.bool_]] | None = None
    for _ in range(_TRIES):
        trial = Canvas(
            canvas.grey.copy(), canvas.height.copy(), canvas.streaks.copy(), canvas.boundary, canvas.interface
        )
        stroke = PAINTERS[flaw](trial, recipe, rng)
        surface = light(trial, recipe, angle)
        marked = stroke.cover > 0.35
        pixels = max(int(np.count_nonzero(marked)), 1)
        change = np.abs(np.clip(surface, 0, 1) - np.clip(sound, 0, 1))
        seen = marked & (change > _LEAST_VISIBLE)
        plain = float(change[seen].sum()) / pixels * min(1.0, float(np.count_nonzero(seen)) / _LEAST_PIXELS)
        if best is None or plain > best[0]:
            best = plain, surface, marked if stroke.solid else seen
        # A large flaw is visible at lower contrast, so a solid one may differ less.
        if plain > 0.03 + (0.35 if stroke.solid else 1.0) * clutter:
            break
    assert best is not None
    return best[1], best[2]


def _describe(recipe: Recipe, flaw: str, area: float) -> NDArray[np.float32]:
    pixel_size = np.clip(np.log(recipe.pixel_size_um / 0.3) / np.log(30.0), -1, 1)
    values = [scaled(recipe, name) for name in _NUMBERS]
    values += [float(pixel_size), float(recipe.finish == "etched"), float(recipe.finish == "fracture"), area**0.5]
    values += [float(recipe.material == name) for name in MATERIALS]
    values += [float(flaw == name) for name in FLAWS]
    return np.asarray(values, dtype=np.float32)


def _check(seed: int, size: int, material: str | None, flaw: str | None, lot: int | None) -> None:
    for name, number in (("seed", seed), ("size", size), ("lot", 0 if lot is None else lot)):
        if not isinstance(number, SupportsIndex):
            raise ArgumentError(f"{name} is {number!r:.40}; give an integer")
    if seed < 0 or (lot is not None and lot < 0):
        raise ArgumentError(f"seed and lot must be 0 or more, not {seed} and {lot}")
    if not 32 <= size <= 4096:
        raise ArgumentError(f"size must be from 32 to 4096 pixels, not {size}")
    if material is not None and material not in MATERIALS:
        raise ArgumentError(f"unknown material {material!r}: choose one of {', '.join(MATERIALS)}")
    if flaw is not None and flaw != "sound" and flaw not in FLAWS:
        raise ArgumentError(f"unknown flaw {flaw!r}: choose 'sound' or one of {', '.join(FLAWS)}")
