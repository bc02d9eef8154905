"""What several backends need around their kernels: no kernel, and no backend, is in here."""
