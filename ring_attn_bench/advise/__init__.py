"""Which backend, partition, transport and schedule to take for a shape, from what was measured."""
