"""Asks every backend about every feature, each in processes of its own: the verb `probe`."""
