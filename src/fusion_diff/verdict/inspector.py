"""What gives verdicts, as everything above sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.result import Inspection


class Inspector(Protocol):
    """Anything that gives verdicts; `DiffusionModel` and `EdgeSession` do."""

    def inspect(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        """Return the verdict on one micrograph at an error rate of `alpha`."""
