"""Batches: any number of micrographs to Parquet, in bounded memory, taken up again where a run was cut off."""
