"""Trust: signatures, the ledger of verdicts, audits of references, golden sets and certificates."""
