"""Kinds of evidence: each learns from bags, maps tokens to evidence, and scores a micrograph."""
