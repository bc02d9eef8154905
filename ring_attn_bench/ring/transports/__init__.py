"""Ways to move keys and gradients between ranks; each is a `Link` (link.py)."""
