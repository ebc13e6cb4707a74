"""Detection of attacks: does purification move a micrograph's log-odds further than those of the references?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_diff.counted import counted
from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.decision import ROUNDING, least_p_value, p_value, shares_of
from fusion_diff.verdict.reasons import OPEN

FALSE_ALARMS = 0.05
"""False-alarm rate: share of untouched micrographs that may be marked as attacked."""
WITHHELD = f"{OPEN}without this sign of an attack it would be authentic."
PURIFIED = (
    "The score is that of the micrograph after purification by the diffusion prior, compared with references that were "
    "not purified: authentic ones commonly score lower than otherwise, and the error rate does not hold."
)


@dataclass(frozen=True)
class AttackTest:
    """Detects attacked micrographs by how far purification moves their log-odds.

    Attributes:
        shifts: (n,) absolute change of the log-odds of each reference; no reference was attacked.
        groups: (n,) specimen of each reference. Each specimen counts once, as in the p-values of the decision.
    """

    shifts: tuple[float, ...]
    groups: Sequence[str]

    @classmethod
    def of(cls, name: str, shifts: tuple[float, ...], groups: Sequence[str]) -> AttackTest:
        """Return the test for the references of a model; `name` is the model's, for errors.

        Raises:
            EnrolmentError: the shifts were not measured at enrolment.
        """
        if not shifts:
            raise EnrolmentError(
                f"{name}: the effect of purification on these references was not measured, so attacks cannot be "
                "detected; enrol again with detect_attacks=True (fusion-diff enroll --detect-attacks), or leave out "
                "the shots of inspect where that was done"
            )
        return cls(shifts, groups)

    @property
    def specimens(self) -> int:
        """Number of specimens among the references."""
        return len(set(self.groups))

    @property
    def false_alarms(self) -> float:
        """Actual false-alarm rate: `FALSE_ALARMS`, or 1 / (n + 1) where n specimens allow no smaller rate."""
        return max(FALSE_ALARMS, least_p_value(self.specimens))

    @property
    def threshold(self) -> float:
        """Conformal quantile of the references' shifts. A micrograph with a larger shift is marked as attacked."""
        return min(shift for shift in self.shifts if self._alarm(np.nextafter(shift, np.inf)))

    def judge(self, shift: float) -> tuple[bool, str]:
        """Return whether a micrograph seems attacked, and a sentence with the reason.

        Args:
            shift: log-odds before purification minus log-odds after it; the sign is ignored.
        """
        shift = abs(shift)
        attacked = self._alarm(shift)
        text = "Its pixels may have been tuned to mislead" if attacked else "No sign of pixels tuned to mislead"
        text += f": purification moves its log-odds by {shift:.2f}; more than {self.threshold:.2f} raises the alarm."
        if self.false_alarms > FALSE_ALARMS:
            noun = "reference" if self.specimens == len(self.shifts) else "specimen"
            text += (
                f" With {counted(self.specimens, noun)} the false-alarm rate is "
                f"{100 * self.false_alarms:.0f} %; {round(1 / FALSE_ALARMS) - 1} would bring it down to "
                f"{100 * FALSE_ALARMS:.0f} %."
            )
        return attacked, text

    def _alarm(self, shift: float) -> bool:
        shares = shares_of(self.groups)
        return p_value(shift, np.asarray(self.shifts), shares) <= self.false_alarms + ROUNDING
