"""Trust: signatures, the record of verdicts, and the audit of references and models."""
