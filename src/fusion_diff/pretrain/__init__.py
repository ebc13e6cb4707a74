"""Stage 1: pretraining of the prior, the encoder and the flaw detector, without labelled micrographs."""
