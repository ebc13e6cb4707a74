"""Stage 2: learning from a handful of labelled references, and deciding about a micrograph.

Terms used in this package:

- Sides: the authentic references, and the references of all other classes.
- Head: learns one or more kinds of evidence and computes their maps from tokens. Larger values mean less authentic.
- Reading: the maps of some kinds, summed per token and pooled into one score per micrograph.
- Fusion: the weighted sum of readings. Weights depend on how well each reading separates held-out references.
- Calibration: turns the fused score into the log-odds of not being authentic.
- Decision: compares conformal p-values of both sides with the error rate alpha.
"""
