"""What is right, in float64, and how far from it a result may be."""
