"""What a verdict needs of the enrolled references, whether a model or an exported one has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fusion_diff.fewshot.decision import DecisionRule
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.compared import Compared


class Enrolled(Protocol):
    """Enrolled references; `Enrolment` provides them, and `Exported` without torch."""

    @property
    def verifier(self) -> DecisionRule:
        """What they say of a fused score."""

    @property
    def compared(self) -> Compared:
        """Summary of them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class of each."""

    @property
    def enlargements(self) -> tuple[float, ...]:
        """How far each was enlarged to a whole tile, at least 1; empty says 1 for each."""

    @property
    def references_sha256(self) -> str:
        """Digest of them."""

    @property
    def scope_limit(self) -> float:
        """Strangeness above which a micrograph is out of scope."""

    def enrolled_as(self, micrograph: Micrograph) -> str | None:
        """Return the name of the reference whose file, and page of it, a micrograph is; None if it is none of them."""
