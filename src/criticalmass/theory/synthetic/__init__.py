"""Representations whose redundancy is known: what a measurement of it must find.

Each is a population: two classes, equally likely, each Gaussian with the same covariance,
x = means[y] + loadings z with z ~ N(0, 1). The best accuracy that any probe can have on a
subset is then Phi(D / 2), with D the Mahalanobis distance of the classes on that subset
(Hastie, Tibshirani and Friedman 2009, section 4.3), and its linear CKA with the whole layer
follows from the population's covariance. A logistic, LDA or ridge probe tends to the former
as the training set grows, the CKA of a sample to the latter.

    from criticalmass.theory import synthetic
    population = synthetic.diffuse(n_neurons=64, n_factors=8)
    store = synthetic.to_store(synthetic.draw(population, seed=0), out="features")
    synthetic.critical_mass(population, 0.9)
"""

from __future__ import annotations

from criticalmass.theory.synthetic.population import (
    Population,
    best_accuracy,
    diffuse,
    duplicated,
    needle,
    nested,
)
from criticalmass.theory.synthetic.sample import Synthetic, draw, to_store
from criticalmass.theory.synthetic.truth import Expected, critical_mass, expected, prefix_accuracy

__all__ = [
    "Expected",
    "Population",
    "Synthetic",
    "best_accuracy",
    "critical_mass",
    "diffuse",
    "draw",
    "duplicated",
    "expected",
    "needle",
    "nested",
    "prefix_accuracy",
    "to_store",
]
