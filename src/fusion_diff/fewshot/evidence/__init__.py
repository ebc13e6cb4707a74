"""Kinds of evidence: each learns from the bags of references and maps tokens to evidence."""
