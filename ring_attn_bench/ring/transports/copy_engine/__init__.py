"""Symmetric memory inside one host: see `transport`."""
