"""Our functions where other libraries look for theirs: each module is imported by who uses it."""
