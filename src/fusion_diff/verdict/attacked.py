"""Whether a micrograph was attacked: does purification move its log-odds further than those of the references?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_diff.counted import counted
from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.decision import ROUNDING, p_value, shares_of

FALSE_ALARMS = 0.05
"""Share of untouched micrographs that may be taken for attacked ones."""
WITHHELD = "Inconclusive: it would be authentic, but for that."
PURIFIED = "The score is that of the micrograph after purification by the diffusion prior."


@dataclass(frozen=True)
class AttackTest:
    """Tells attacked micrographs by how far purification moves their log-odds.

    Attributes:
        shifts: (n,) how far it moves those of the references, none of which was attacked.
        groups: (n,) specimen of each: images of one have one voice together, as in p-values of the decision.
    """

    shifts: tuple[float, ...]
    groups: Sequence[str]

    @classmethod
    def of(cls, name: str, shifts: tuple[float, ...], groups: Sequence[str]) -> AttackTest:
        """Return the test by what was measured of the references of the model of a name, and their specimens.

        Raises:
            EnrolmentError: the references were enrolled without measuring their shifts.
        """
        if not shifts:
            raise EnrolmentError(
                f"{name} was enrolled without measuring what purification does to its references, so attacks "
                "cannot be told; enrol them again with detect_attacks=True (fusion-diff enroll --detect-attacks)"
            )
        return cls(shifts, groups)

    @property
    def specimens(self) -> int:
        """How many specimens the references are of."""
        return len(set(self.groups))

    @property
    def false_alarms(self) -> float:
        """Share of untouched micrographs that are taken for attacked: `FALSE_ALARMS`, or more where specimens are few.

        With references of n specimens no smaller share than 1 / (n + 1) can be told.
        """
        return max(FALSE_ALARMS, 1 / (self.specimens + 1))

    @property
    def threshold(self) -> float:
        """The conformal quantile of the references' shifts: what moves further is taken for attacked."""
        return min(shift for shift in self.shifts if self._alarm(np.nextafter(shift, np.inf)))

    def judge(self, shift: float) -> tuple[bool, str]:
        """Return whether a micrograph seems attacked, and why, in a sentence.

        Args:
            shift: log-odds before less log-odds after purification; the sign does not matter.
        """
        shift = abs(shift)
        attacked = self._alarm(shift)
        text = "Its pixels may have been tuned to mislead" if attacked else "No sign of pixels tuned to mislead"
        text += f": purification moves its log-odds by {shift:.2f}; more than {self.threshold:.2f} raises the alarm."
        if self.false_alarms > FALSE_ALARMS:
            noun = "reference" if self.specimens == len(self.shifts) else "specimen"
            text += (
                f" With {counted(self.specimens, noun)} false alarms come at {100 * self.false_alarms:.0f} of 100; "
                f"{round(1 / FALSE_ALARMS) - 1} would bring them down to {100 * FALSE_ALARMS:.0f}."
            )
        return attacked, text

    def _alarm(self, shift: float) -> bool:
        shares = shares_of(self.groups)
        return p_value(shift, np.asarray(self.shifts), shares) <= self.false_alarms + ROUNDING
