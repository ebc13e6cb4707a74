"""The dual-path encoder: a local path for texture, a global path for structure, and the gate that mixes them."""
