"""What gives verdicts and what it compares with, as everything above sees them, with or without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fusion_diff.fewshot.decision import DecisionRule
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.compared import Compared
    from fusion_diff.verdict.result import Inspection


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


def identity(model: Inspector | None) -> dict[str, str | None]:
    """Return the `name`, `sha256` and `references_sha256` of a model, by which ledgers and the like tell it.

    Each is None without a model, the last without references.
    """
    if model is None:
        return {"name": None, "sha256": None, "references_sha256": None}
    enrolled = model.enrolment
    return {
        "name": model.name,
        "sha256": model.sha256,
        "references_sha256": None if enrolled is None else enrolled.references_sha256,
    }
