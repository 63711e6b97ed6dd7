"""The loops over curvature pairs against the textbook's two-loop recursion."""

from __future__ import annotations

import numpy as np
import pytest

from criticalmass.measures.logistic.curvature_pairs import MEMORY, CurvaturePairs, dot

N = 1300  # More than two blocks of an inner product.


def quadratic(rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.uniform(-2.0, 2.0, N))


def textbook(pairs: list[tuple[np.ndarray, np.ndarray]], q: np.ndarray) -> np.ndarray:
    """Nocedal and Wright (2006), algorithm 7.4, with the identity in the middle."""
    q = q.copy()
    weights = []
    for s, y in reversed(pairs):
        weights.append((s @ q) / (s @ y))
        q -= weights[-1] * y
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - (y @ q) / (s @ y)) * s
    return q


def apply(pairs: CurvaturePairs, q: np.ndarray) -> np.ndarray:
    out = q.astype(np.float32)
    pairs.second_loop(out, pairs.first_loop(out))
    return out


@pytest.mark.parametrize("n_pairs", [0, 1, 3, MEMORY, MEMORY + 4])
def test_the_loops_are_the_two_loop_recursion_over_the_last_pairs(n_pairs: int) -> None:
    rng = np.random.default_rng(n_pairs)
    hessian = quadratic(rng)
    pairs, known = CurvaturePairs(N), []
    for _ in range(n_pairs):
        direction = rng.standard_normal(N).astype(np.float32)
        before = rng.standard_normal(N).astype(np.float32)
        step = float(rng.uniform(0.1, 1.0))
        after = (before + hessian * (step * direction)).astype(np.float32)
        pairs.add(direction, step, after, before)
        known.append((step * direction.astype(np.float64), (after - before).astype(np.float64)))
    q = rng.standard_normal(N)
    assert len(pairs) == min(n_pairs, MEMORY)
    expected = textbook(known[-MEMORY:], q)
    np.testing.assert_allclose(apply(pairs, q), expected, rtol=1e-3, atol=1e-4)


def test_a_pair_without_curvature_is_left_out() -> None:
    rng = np.random.default_rng(0)
    direction, gradient = (rng.standard_normal(N).astype(np.float32) for _ in range(2))
    pairs = CurvaturePairs(N)
    pairs.add(direction, 1.0, gradient - direction, gradient)
    assert len(pairs) == 0


def test_the_pairs_of_another_penalty_satisfy_its_secant_equation() -> None:
    """The change in gradient gains the difference of the penalties on the weights alone."""
    rng = np.random.default_rng(1)
    hessian, is_weight = quadratic(rng), np.arange(N) < N // 2
    pairs, shifted = CurvaturePairs(N), CurvaturePairs(N)
    before = np.zeros(N, np.float32)
    for _ in range(MEMORY):
        step = rng.standard_normal(N).astype(np.float32)
        pairs.add(step, 1.0, ((hessian + 1.0 * is_weight) * step).astype(np.float32), before)
    shifted.add_shifted(pairs, 0.1 - 1.0, N // 2)
    assert len(shifted) == MEMORY
    np.testing.assert_allclose(
        apply(shifted, (hessian + 0.1 * is_weight) * step), step, rtol=1e-3, atol=1e-3
    )


def test_an_inner_product_is_exact_to_float32_within_blocks() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(100_003).astype(np.float32) for _ in range(2))
    assert dot(a, b) == pytest.approx(float(a.astype(np.float64) @ b), abs=1e-3)
