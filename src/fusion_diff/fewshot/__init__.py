"""Stage 2: what a handful of labelled references teaches, and the decision made from it."""
