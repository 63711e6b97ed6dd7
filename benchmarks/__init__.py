"""Speed and memory, measured by hand: ``python -m benchmarks.probes``, ``benchmarks.memory``."""
