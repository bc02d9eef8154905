"""Faults planted behind the contract, to show that the harness names each."""
