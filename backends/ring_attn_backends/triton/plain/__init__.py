"""Kernels for every GPU, in Triton's language: they serve all that the backend does not refuse."""
