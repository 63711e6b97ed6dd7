"""Fits that are pulled towards a vector: optimal, and ordinary fits where the vector is zero."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax

import criticalmass as cm
from criticalmass.theory.shifted_logistic import Layer, Pulls, fit_pulled

FloatArray = NDArray[np.float64]


def blobs(n: int, d: int, classes: int, seed: int = 0) -> tuple[FloatArray, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = rng.standard_normal((n, d)) + rng.standard_normal((classes, d))[y]
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def layer_of(x: FloatArray, y: NDArray[np.int64]) -> tuple[Layer, FloatArray]:
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    rows = np.hstack([x @ vectors, np.ones((len(x), 1))]).astype(np.float32)
    return Layer(rows, y, np.maximum(values, 0.0)), vectors


def pulls_of(centre: FloatArray, penalty: FloatArray) -> Pulls:
    count, _, c = centre.shape
    curvature = np.repeat((np.eye(c) / c - 1 / c**2)[None], count, axis=0)
    values, basis = np.linalg.eigh(curvature)
    return Pulls(basis, penalty, np.maximum(values, 0.0), centre.astype(np.float32))


@pytest.mark.parametrize("classes", [2, 5])
def test_pulled_towards_zero_it_is_the_ordinary_probe(classes: int) -> None:
    x, y = blobs(300, 8, classes)
    layer, vectors = layer_of(x, y)
    l2s = (1e-1, 1e-2)
    penalty = np.repeat(np.array(l2s)[:, None], classes, axis=1)
    start = np.zeros((2, 9, classes), np.float32)
    fits = fit_pulled(layer, pulls_of(np.zeros((2, 8, classes)), penalty), start, tol=1e-7)
    known = cm.fit_probes(x, y, [np.arange(8)], [8], l2s)
    for i in range(2):
        weights, _ = known.heads[0][0][i]
        np.testing.assert_allclose(vectors @ fits.theta[i, :-1], weights.T, atol=3e-3)


def test_the_gradient_vanishes_where_the_pull_is_towards_a_vector() -> None:
    x, y = blobs(200, 6, 3)
    layer, _ = layer_of(x, y)
    rng = np.random.default_rng(1)
    centre = rng.standard_normal((2, 6, 3))
    centre -= centre.mean(axis=2, keepdims=True)
    pulls = pulls_of(centre, np.array([[0.05, 0.1, 0.3], [1.0, 1.0, 1.0]]))
    fits = fit_pulled(layer, pulls, np.zeros((2, 7, 3), np.float32), tol=1e-7)
    for j in range(2):
        matrix = pulls.basis[j] @ np.diag(pulls.penalty[j]) @ pulls.basis[j].T
        theta = fits.theta[j].astype(np.float64)
        share = np.exp(log_softmax(layer.x @ theta, axis=1))
        slope = layer.x.T @ (share - np.eye(3)[y]) / len(y)
        np.testing.assert_allclose(fits.gradient[j], slope, atol=1e-6)
        np.testing.assert_allclose(
            slope[:-1] + (theta[:-1] - centre[j]) @ matrix, np.zeros((6, 3)), atol=2e-4
        )
        inner = np.diag(share.mean(axis=0)) - share.T @ share / len(y)
        np.testing.assert_allclose(fits.curvature[j], inner, atol=1e-6)


def test_a_budget_of_passes_is_kept() -> None:
    x, y = blobs(200, 6, 3)
    layer, _ = layer_of(x, y)
    pulls = pulls_of(np.zeros((1, 6, 3)), np.full((1, 3), 1e-4))
    start = np.zeros((1, 7, 3), np.float32)
    assert fit_pulled(layer, pulls, start, tol=1e-7, max_passes=2).passes == 3
