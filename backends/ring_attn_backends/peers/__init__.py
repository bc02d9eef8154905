"""Other people's rings, as contestants: one module for each package."""
