"""The steps of the records, oldest first."""
