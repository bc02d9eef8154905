"""Processes that may die, and who asks them: whatever they are asked about."""
