"""Simulation of the microscope: blur, illumination, displacement of scan lines, noise and grey curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.synthetic.fields import smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.synthetic.fields import Field
    from fusion_diff.synthetic.recipes import Recipe


def expose(surface: Field, recipe: Recipe, rng: np.random.Generator) -> Field:
    """Return the image of a lit surface.

    The random numbers do not depend on the surface. Two surfaces that differ only in a flaw give images that differ
    only near that flaw, including the strength of shot noise there.

    Args:
        surface: float32 (S, S), about [0, 1].
        recipe: noise, blur, shading and grey curve.
        rng: source of randomness.

    Returns:
        float32 (S, S) in [0, 1].
    """
    size = surface.shape[0]
    image = blurred(surface, recipe.blur)
    image = image * _illumination(recipe, size, rng)
    image = np.float32(0.5) + np.float32(recipe.contrast) * (image - np.float32(0.5))
    image = np.clip(image, 0.0, 1.0) ** np.float32(recipe.gamma)
    if recipe.jitter > 0.05:
        image = _jittered(image, recipe.jitter, rng)
    image = image + _noise(image, recipe, rng)
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def blurred(image: Field, sigma: float) -> Field:
    """Return the image convolved with a Gaussian of standard deviation `sigma` pixels, with repeated borders."""
    if sigma < 0.2:
        return image
    reach = max(1, int(np.ceil(2.5 * sigma)))
    taps = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    taps = (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (reach, reach)
        padded = np.pad(image, width, mode="edge")
        size = image.shape[axis]

        def shifted(by: int, padded: Field = padded, axis: int = axis, size: int = size) -> Field:
            window = slice(reach + by, reach + by + size)
            return padded[window] if axis == 0 else padded[:, window]

        out = taps[0] * shifted(0)
        for k in range(1, reach + 1):
            out += taps[k] * (shifted(-k) + shifted(k))
        image = out
    return image


def _illumination(recipe: Recipe, size: int, rng: np.random.Generator) -> Field:
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    strength = np.float32(recipe.shading)
    field = 1 + strength * np.float32(0.6) * (
        ramp[:, None] * np.float32(np.sin(direction)) + ramp * np.float32(np.cos(direction))
    )
    field += strength * np.float32(0.3) * smooth_noise(rng, size, size / 2)
    if recipe.optical:  # vignetting of the lens; a curved tile is bright along its crest
        centre = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
        field -= strength * (np.square(ramp[:, None] - centre[0]) * 0.4 + np.square(ramp - centre[1]) * 0.8)
    return np.asarray(np.maximum(field, np.float32(0.15)), dtype=np.float32)


def _jittered(image: Field, amplitude: float, rng: np.random.Generator) -> Field:
    """Displace every scan line sideways by a fraction of a pixel, like vibration and stray fields."""
    shift = rng.standard_normal((image.shape[0], 1), dtype=np.float32)
    shift = np.clip(shift * np.float32(amplitude), -0.99, 0.99)
    left, right = np.roll(image, 1, axis=1), np.roll(image, -1, axis=1)
    left[:, 0], right[:, -1] = image[:, 0], image[:, -1]
    return np.asarray(image + np.maximum(shift, 0) * (left - image) + np.maximum(-shift, 0) * (right - image))


def _noise(image: Field, recipe: Recipe, rng: np.random.Generator) -> NDArray[np.float32]:
    size = image.shape[0]
    level = np.float32(recipe.noise)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    if recipe.style[7] < 0.5:  # slow detectors and resampling correlate neighbouring pixels
        grain = blurred(grain, 0.6) * np.float32(2.0)
    # Shot noise grows with the square root of the signal. The amplifier contributes a third of the variance.
    noise = level * np.sqrt(np.float32(0.33) + np.float32(1.33) * image) * grain
    if not recipe.optical:  # charging and line noise: whole rows a little brighter or darker
        rows = rng.standard_normal((size, 1), dtype=np.float32)
        noise += np.float32(0.15) * level * rows
    return np.asarray(noise, dtype=np.float32)
