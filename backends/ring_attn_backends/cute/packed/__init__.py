"""Kernels over packed documents: a program finds its document, and computes it as any other."""
