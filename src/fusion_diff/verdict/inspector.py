"""What gives verdicts, as everything above sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.enrolled import Enrolled
    from fusion_diff.verdict.result import Inspection


class Inspector(Protocol):
    """Anything that gives verdicts; `DiffusionModel` and `EdgeSession` do."""

    @property
    def name(self) -> str:
        """Name of the model in verdicts and records."""

    @property
    def sha256(self) -> str:
        """Digest of the model."""

    @property
    def enrolment(self) -> Enrolled | None:
        """The enrolled references; None if there are none."""

    def inspect(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        """Return the verdict on one micrograph at an error rate of `alpha`."""
