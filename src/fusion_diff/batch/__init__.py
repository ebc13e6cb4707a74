"""Batches: inspect any number of micrographs into Parquet files, in bounded memory, resuming interrupted runs."""
