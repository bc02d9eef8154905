"""Ways to move keys and gradients between ranks; each is a `Transport` (link.py)."""
