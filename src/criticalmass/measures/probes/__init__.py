"""The other probes."""
