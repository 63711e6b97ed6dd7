"""Probes other than the logistic one: ridge, LDA, nearest neighbours, class means, SGD."""
