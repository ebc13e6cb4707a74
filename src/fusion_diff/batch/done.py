"""What is done: a set of 16-byte keys that takes little more than 16 bytes a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BYTES = 16
_RECENT = 10_000


class DoneSet:
    """Keys in a sorted array, and those that were added lately in a set, which is merged into the array at times.

    NumPy takes no account of zeros at the end of a key, which does no harm: all keys are of one length.
    """

    def __init__(self) -> None:
        self._sorted: NDArray[np.bytes_] = np.empty(0, dtype=f"S{KEY_BYTES}")
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, key: bytes) -> bool:
        if key in self._recent:
            return True
        probe = np.frombuffer(key, dtype=self._sorted.dtype)
        at = int(np.searchsorted(self._sorted, probe)[0])
        return at < len(self._sorted) and bool(self._sorted[at] == probe[0])

    def add(self, key: bytes) -> bool:
        """Add a key, and tell whether it is new."""
        if key in self:
            return False
        self._recent.add(key)
        if len(self._recent) >= max(_RECENT, len(self._sorted) // 10):
            self.add_all(np.frombuffer(b"".join(self._recent), dtype=self._sorted.dtype))
            self._recent.clear()
        return True

    def add_all(self, keys: NDArray[np.bytes_]) -> None:
        """Add many keys at once: an array of 16-byte strings."""
        self._sorted = np.unique(np.concatenate([self._sorted, keys]))
