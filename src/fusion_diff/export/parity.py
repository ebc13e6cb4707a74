"""The check at export: the exported model must agree with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_diff.errors import ExportError
from fusion_diff.fewshot.figures import macro_f1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.verdict.result import Inspection

FP32_TOLERANCE = 1e-3
"""Largest difference of scores allowed in fp32."""
INT8_F1_LOSS = 0.01
"""Largest loss of macro F1 allowed in 8 bits."""


@dataclass(frozen=True)
class Parity:
    """Comparison of an exported model with the model, on the same micrographs.

    Attributes:
        micrographs: number of micrographs compared.
        difference: the largest difference of scores.
        reversed: names of micrographs whose decision changed between authentic and not authentic.
        rescoped: names of micrographs that are in scope for only one of the two.
        f1: macro F1 of the model's forced choices; None without labels.
        exported_f1: macro F1 of the exported model's; None without labels.
    """

    micrographs: int
    difference: float
    reversed: tuple[str, ...]
    rescoped: tuple[str, ...] = ()
    f1: float | None = None
    exported_f1: float | None = None

    @classmethod
    def of(
        cls,
        model: Sequence[Inspection],
        exported: Sequence[Inspection],
        names: Sequence[str],
        authentic: Sequence[bool] | None,
    ) -> Parity:
        """Compare the verdicts of the two on the same micrographs; `authentic` gives the truth, if it is known."""
        differences = [abs(one.score - other.score) for one, other in zip(model, exported, strict=True)]
        pairs = list(zip(names, model, exported, strict=True))
        turned = tuple(n for n, one, other in pairs if {one.decision, other.decision} == {"authentic", "not authentic"})
        rescoped = tuple(name for name, one, other in pairs if one.in_scope != other.in_scope)
        figures = (None, None) if authentic is None else (_f1(model, authentic), _f1(exported, authentic))
        return cls(len(differences), max(differences), turned, rescoped, *figures)

    def fault(self, precision: str) -> str | None:
        """Return why the exported model cannot be used; None if it can."""
        if self.reversed:
            others = f" and {len(self.reversed) - 1} others" if len(self.reversed) > 1 else ""
            return f"the verdict on {self.reversed[0]}{others} is reversed"
        if self.rescoped:
            return f"the two disagree on whether {self.rescoped[0]} is in scope"
        if precision == "fp32" and self.difference > FP32_TOLERANCE:
            return f"a score differs by {self.difference:.2g}, more than the allowed {FP32_TOLERANCE:g}"
        if self.f1 is not None and self.exported_f1 is not None and self.f1 - self.exported_f1 > INT8_F1_LOSS:
            return (
                f"macro F1 drops by {100 * (self.f1 - self.exported_f1):.1f} points, more than the "
                f"allowed {100 * INT8_F1_LOSS:g}"
            )
        return None

    def check(self, precision: str, runtime: str) -> None:
        """Check that the exported model agrees with the model.

        Raises:
            ExportError: it does not.
        """
        fault = self.fault(precision)
        if fault is not None:
            cure = (
                "export in fp32, or calibrate with more references" if precision == "int8" else "try the other format"
            )
            raise ExportError(f"not exported: in {runtime} at {precision}, {fault}; {cure}")


def _f1(verdicts: Sequence[Inspection], authentic: Sequence[bool]) -> float:
    """Return the macro F1 of forced choices, over the sides that occur in `authentic`."""
    return macro_f1(authentic, [each.score >= 0.5 for each in verdicts])
