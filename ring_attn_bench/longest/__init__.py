"""The longest sequence of each backend, found in processes that may die of it."""
