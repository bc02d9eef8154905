"""The page of a run: one frozen value, made from records, and two forms of it."""
