"""Text for people: tables that fit a terminal, and numbers as they are read."""
