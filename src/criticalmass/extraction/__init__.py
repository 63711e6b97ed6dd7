"""From a model and a dataset, or from existing vectors, to a feature store."""
