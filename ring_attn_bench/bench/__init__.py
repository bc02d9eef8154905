"""The harness: suites to cases, cases to samples, samples to records."""
