"""The built-in reference task: sound, cracked and counterfeit specimens of one lot, generated instead of stored."""

from __future__ import annotations

from fusion_diff.synthetic.generate import SyntheticMicrograph, generate

BUILTIN_AUTHENTIC = "sound"
"""The authentic class of the built-in task."""

BUILTIN_LABELS: tuple[str, ...] = ("sound", "counterfeit", "crack")
"""Classes of the built-in task, authentic first."""

BUILTIN_MATERIAL = "alumina"
"""Material of the built-in specimens."""

# Seeds of references and samples do not overlap, so no sample is a reference.
_REFERENCE_SEEDS = 1_000_000
_SAMPLE_SEEDS = 2_000_000
_PER_CLASS = 100_000


def builtin_references(shots: int = 5, lot: int = 0, size: int = 224) -> tuple[list[SyntheticMicrograph], list[str]]:
    """Return the built-in references: `shots` micrographs of each class of one lot.

    Args:
        shots: micrographs per class, at least 1.
        lot: number of the production lot.
        size: side in pixels.

    Returns:
        The micrographs and their labels, in the order of `BUILTIN_LABELS`.

    Raises:
        ValueError: an argument is out of range.
    """
    return _specimens(shots, lot, size, _REFERENCE_SEEDS)


def builtin_samples(n_per_class: int, lot: int = 0, size: int = 224) -> tuple[list[SyntheticMicrograph], list[str]]:
    """Return specimens of the lot that are never references. Arguments are as in `builtin_references`."""
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
