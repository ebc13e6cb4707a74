"""The check at export: the exported model must agree with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.errors import ExportError
from fusion_diff.fewshot.decision import least_p_value
from fusion_diff.fewshot.figures import macro_f1
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.decision import DecisionRule
    from fusion_diff.verdict.result import Inspection

ALPHA = 0.1
"""Error rate of the decisions that are compared, where there are specimens enough for it."""
FP32_TOLERANCE = 1e-3
"""Largest difference of scores allowed in fp32."""
INT8_F1_LOSS = 0.01
"""Largest loss of macro F1 allowed in 8 bits."""


def supported_alpha(rule: DecisionRule) -> float:
    """Return `ALPHA`, or with fewer specimens the least error rate at which every decision can be made."""
    fewest = min((specimens for specimens in rule.crossfitted_specimens if specimens), default=None)
    return ALPHA if fewest is None else max(ALPHA, least_p_value(fewest))


@dataclass(frozen=True)
class Parity:
    """Comparison of an exported model with the model, on the same micrographs.

    Attributes:
        micrographs: number of micrographs compared.
        difference: the largest difference of scores.
        furthest: name of the micrograph with this difference.
        alpha: error rate of the decisions.
        decided: number of micrographs that the model decides on, and which are in scope therefore. Only these can show
            whether the decisions of the two agree.
        reversed: names of micrographs whose decision changed between authentic and not authentic.
        rescoped: names of micrographs that are in scope for only one of the two.
        recognised: number of micrographs on which the model recognises the surface of a reference.
        recognising: comparison with the model as it is, if it recognises surfaces, which no exported model does; None
            if it does not.
        f1: macro F1 of the model's forced choices; None without labels.
        exported_f1: macro F1 of the exported model's; None without labels.
    """

    micrographs: int
    difference: float
    furthest: str
    alpha: float
    decided: int
    reversed: tuple[str, ...] = ()
    rescoped: tuple[str, ...] = ()
    recognised: int = 0
    recognising: Parity | None = None
    f1: float | None = None
    exported_f1: float | None = None

    @classmethod
    def of(
        cls,
        model: Sequence[Inspection],
        exported: Sequence[Inspection],
        names: Sequence[str],
        authentic: Sequence[bool] | None,
        recognising: Sequence[Inspection] | None = None,
    ) -> Parity:
        """Compare the verdicts of the two on the same micrographs.

        Args:
            model: verdicts of the model, without its recognition of surfaces.
            exported: verdicts of the exported model.
            names: names of the micrographs.
            authentic: the truth, if it is known.
            recognising: verdicts of the model as it is, if it recognises surfaces.
        """
        pairs = list(zip(names, model, exported, strict=True))
        difference, furthest = max((abs(one.score - other.score), name) for name, one, other in pairs)
        turned = tuple(n for n, one, other in pairs if {one.decision, other.decision} == {"authentic", "not authentic"})
        rescoped = tuple(name for name, one, other in pairs if one.in_scope != other.in_scope)
        return cls(
            micrographs=len(pairs),
            difference=difference,
            furthest=furthest,
            alpha=model[0].alpha,
            decided=sum(it.decision != "inconclusive" for it in model),
            reversed=turned,
            rescoped=rescoped,
            recognised=sum(it.recognised is not None for it in model),
            recognising=None if recognising is None else cls.of(recognising, exported, names, authentic),
            f1=None if authentic is None else _f1(model, authentic),
            exported_f1=None if authentic is None else _f1(exported, authentic),
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the comparison leaves open although it found no fault, in clauses."""
        found, whole = [], self.recognising
        if not self.decided:
            cure = (
                "give the enrolled references (--references, or references in Python)"
                if self.f1 is None
                else "try both on other micrographs"
            )
            found.append(
                "scores were compared but no decisions, as the model decides on none of "
                f"{counted(self.micrographs, 'micrograph')} at alpha {self.alpha:.2g}; {cure}"
            )
        if whole is not None and whole.recognised:
            found.append(
                "without the recognition of surfaces, scores differ from the model's by up to "
                f"{whole.difference:.3f} (on {printable(whole.furthest)}), and "
                f"{counted(len(whole.reversed), 'decision is', 'decisions are')} reversed: it recognises "
                f"{whole.recognised} of {counted(whole.micrographs, 'micrograph')}, each reference as itself; expect "
                "as much on new ones of these surfaces"
            )
        return tuple(found)

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
