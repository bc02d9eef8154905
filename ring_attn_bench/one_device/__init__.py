"""Attention on one device: a ring of one, and packed documents."""
