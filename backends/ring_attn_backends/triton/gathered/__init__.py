"""Kernels of one launch over the keys of many ranks, which wait in it for what is on its way."""
