"""The diffusion path: a frozen prior, and the reconstruction and purification of micrographs with it."""
