"""What is computed, who holds which tokens, what each rank does: frozen values and integers."""
