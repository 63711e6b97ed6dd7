"""From a feature store to a run."""
