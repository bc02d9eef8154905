"""What examples/train_tiny_gpt.py trains, on what, and how its curves are compared."""
