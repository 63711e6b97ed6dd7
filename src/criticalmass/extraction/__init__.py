"""Make a feature store from a model and a dataset, or from existing vectors."""
