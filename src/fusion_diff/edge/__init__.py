"""The edge: inspection with exported models, which needs NumPy and one runtime but no torch.

`EdgeSession.load(folder)` returns an object with `inspect`, like a `DiffusionModel`.
"""

from fusion_diff.edge.session import EdgeSession

__all__ = ["EdgeSession"]
