"""The micrographs already inspected: a set of 16-byte keys that needs little more than 16 bytes per key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BYTES = 16
_RECENT = 10_000


class DoneSet:
    """A set of keys: a sorted array, and a small set of recent keys that is merged into the array from time to time.

    NumPy ignores zeros at the end of a key. This is harmless because all keys have the same length.
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
        """Add a key and return whether it is new."""
        if key in self:
            return False
        self._recent.add(key)
        if len(self._recent) >= max(_RECENT, len(self._sorted) // 10):
            self.add_all(np.frombuffer(b"".join(self._recent), dtype=self._sorted.dtype))
            self._recent.clear()
        return True

    def add_all(self, keys: NDArray[np.bytes_]) -> None:
        """Add many keys, given as an array of 16-byte strings."""
        self._sorted = np.unique(np.concatenate([self._sorted, keys]))
