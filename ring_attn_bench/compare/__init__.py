"""Two runs beside each other: what became faster, slower, larger or wrong, and how sure that is."""
