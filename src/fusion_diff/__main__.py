"""`python -m fusion_diff` is `fusion-diff`."""

from __future__ import annotations

import sys

from fusion_diff.cli import main

if __name__ == "__main__":
    sys.exit(main())
