"""Cases over a cache: their inputs, who computes them, what is right, and what is timed."""
