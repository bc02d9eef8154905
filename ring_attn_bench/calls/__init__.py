"""From a caller's arguments to a checked call, and that call as one differentiable operation."""
