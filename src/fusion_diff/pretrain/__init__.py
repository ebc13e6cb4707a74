"""Stage 1: train the prior, the encoder and what joins them, without labels."""
