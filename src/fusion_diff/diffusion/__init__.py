"""The diffusion path: a frozen prior, and what it makes of a micrograph."""
