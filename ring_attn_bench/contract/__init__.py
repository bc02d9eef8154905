"""What plug-ins are written against: kernels, their tensors, rings of others, what can be tuned."""
