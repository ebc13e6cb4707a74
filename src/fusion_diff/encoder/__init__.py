"""The dual-path encoder: local texture, global structure, and the gate between them."""
