"""The smallest subset of a layer that passes its tests, as a model to deploy."""
