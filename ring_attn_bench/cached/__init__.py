"""Queries over a cache of keys: a call checked, its kernel chosen, and run."""
