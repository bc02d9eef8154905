"""Tries a backend's configurations, verified first and timed then: `ring-attn-bench tune`."""
