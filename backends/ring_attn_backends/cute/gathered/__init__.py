"""Kernels of one launch over the keys of many ranks, which wait for what is on its way."""
