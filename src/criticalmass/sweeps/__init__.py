"""Sweeps: measure subsets of a feature store and write the results into a run."""
