"""The edge: exported models inspect with NumPy and one runtime alone, without torch.

`EdgeSession.load(folder)` gives what `inspect` can be asked of, as of a `DiffusionModel`.
"""

from fusion_diff.edge.session import EdgeSession

__all__ = ["EdgeSession"]
