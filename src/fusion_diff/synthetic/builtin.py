"""The built-in reference task: one lot of a ceramic, sound, cracked or counterfeit, drawn rather than stored."""

from __future__ import annotations

from fusion_diff.synthetic.generate import SyntheticMicrograph, generate

BUILTIN_AUTHENTIC = "sound"
"""The class that the built-in task verifies."""

BUILTIN_LABELS: tuple[str, ...] = ("sound", "counterfeit", "crack")
"""Classes of the built-in task, authentic first."""

BUILTIN_MATERIAL = "alumina"
"""What the built-in specimens are made of."""

# Seeds of references and of samples lie apart, so no sample was ever a reference.
_REFERENCE_SEEDS = 1_000_000
_SAMPLE_SEEDS = 2_000_000
_PER_CLASS = 100_000


def builtin_references(shots: int = 5, lot: int = 0, size: int = 224) -> tuple[list[SyntheticMicrograph], list[str]]:
    """Return the built-in references: `shots` micrographs of each class of one lot.

    Args:
        shots: micrographs per class, from 1 up.
        lot: which production lot.
        size: side in pixels.

    Returns:
        The micrographs and their labels, in the order of `BUILTIN_LABELS`.

    Raises:
        ValueError: an argument is out of range.
    """
    return _specimens(shots, lot, size, _REFERENCE_SEEDS)


def builtin_samples(n_per_class: int, lot: int = 0, size: int = 224) -> tuple[list[SyntheticMicrograph], list[str]]:
    """Return specimens of the same lot that are never among the references; arguments as `builtin_references`."""
    return _specimens(n_per_class, lot, size, _SAMPLE_SEEDS)


def _specimens(count: int, lot: int, size: int, first: int) -> tuple[list[SyntheticMicrograph], list[str]]:
    if not 1 <= count <= _PER_CLASS:
        raise ValueError(f"the built-in task has 1 to {_PER_CLASS} micrographs per class, not {count}")
    labels = [label for label in BUILTIN_LABELS for _ in range(count)]
    micrographs = [
        generate(first + _PER_CLASS * kind + index, size=size, material=BUILTIN_MATERIAL, flaw=label, lot=lot)
        for kind, label in enumerate(BUILTIN_LABELS)
        for index in range(count)
    ]
    return micrographs, labels
