"""What stays of a run: its words, its lines, its files. No torch."""
