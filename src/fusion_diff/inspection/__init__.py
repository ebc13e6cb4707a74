"""Inspection of many micrographs: from paths to verdicts, records, ledger entries, policies and reports."""
