"""Batches: inspect any number of micrographs into Parquet files, in bounded memory, resuming interrupted runs."""

from __future__ import annotations

ROWS = 2000
"""Default of the maximum number of rows per file, and so in memory. It is here because `--help` shows it, which imports
nothing heavy."""
