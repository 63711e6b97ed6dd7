"""Representations of known redundancy, against which measurements can be checked.

Each is a population of two equally likely Gaussian classes with the same covariance,
x = means[y] + loadings z with z ~ N(0, 1). The best accuracy that any probe can have on a subset
is Phi(D / 2), with D the Mahalanobis distance of the classes on that subset (Hastie, Tibshirani
and Friedman 2009, section 4.3). The linear CKA of a subset with the whole layer follows from the
population's covariance. As the training set grows, the accuracy of a logistic, LDA or ridge probe
tends to the former; the CKA of a sample tends to the latter.

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
