"""Stage 2: learning from a handful of labelled references, and deciding about a micrograph."""
