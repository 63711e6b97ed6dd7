"""Greedy orders by CKA against brute force, enumeration and their own definition."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.cka import linear_cka, prefix_cka
from criticalmass.selectors.greedy import greedy_order

shapes = st.tuples(st.integers(4, 25), st.integers(1, 8), st.integers(0, 2**32 - 1))


def representation(shape):
    n, d, seed = shape
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * rng.uniform(0.1, 3, d)


def similarity(second_moment, subset):
    """CKA of a subset by its definition; 0 for a set of constant neurons."""
    c = np.asarray(second_moment)
    within = np.linalg.norm(c[np.ix_(subset, subset)])
    return np.linalg.norm(c[subset]) ** 2 / within / np.linalg.norm(c) if within > 0 else 0.0


def stepwise(second_moment, worst):
    """Try every candidate at every step."""
    candidates, order = list(range(len(second_moment))), []
    while candidates:
        scores = [similarity(second_moment, [*order, j]) for j in candidates]
        order.append(candidates.pop(int(np.argmin(scores) if worst else np.argmax(scores))))
    return order


@settings(max_examples=60, deadline=None)
@given(shape=shapes, worst=st.booleans())
def test_every_step_is_the_best_of_all_candidates(shape, worst):
    c = moments(representation(shape)).scatter
    order = greedy_order(c, worst=worst)
    assert sorted(order) == list(range(len(c)))
    sign = -1.0 if worst else 1.0
    for k in range(len(c)):
        reached = similarity(c, order[: k + 1].tolist())
        rivals = [similarity(c, [*order[:k], j]) for j in order[k:]]
        assert sign * reached >= max(sign * r for r in rivals) - 1e-9
    if len(c) > 2:
        assert order.tolist() == stepwise(c, worst)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, worst=st.booleans(), scale=st.sampled_from([1e-80, 1e-6, 1e6, 1e80]))
def test_rotated_rows_and_another_unit_leave_the_order(shape, worst, scale):
    x = representation(shape)
    if x.shape[1] < 3:
        return  # two neurons alone tie up to rounding: the layer is symmetric in them
    order = greedy_order(moments(x).scatter, worst=worst)
    centred = x - x.mean(axis=0)
    turn = ortho_group.rvs(len(x), random_state=shape[2])
    turned = turn @ centred
    np.testing.assert_array_equal(greedy_order(turned.T @ turned, worst=worst), order)
    np.testing.assert_array_equal(greedy_order(moments(x).scatter * scale, worst=worst), order)


def test_a_case_by_hand():
    # Neurons of variance 2, 1, 1 without correlation: C*C is diag(4, 1, 1), ||C||^2 = 6.
    # CKA(S) is the root of the sum of squares in S over 6: biggest first, then by position.
    c = np.diag([1.0, 2.0, 1.0])
    assert greedy_order(c).tolist() == [1, 0, 2]
    assert greedy_order(c, worst=True).tolist() == [0, 2, 1]
    np.testing.assert_allclose(prefix_cka(c, greedy_order(c)), np.sqrt([4 / 6, 5 / 6, 1]))


def test_a_copy_is_taken_last():
    # Neurons 0 and 1 are equal; 2 is another of the same size. With 0 selected, CKA is
    # (1+1)/(1*sqrt(5)) = .894; adding its copy does not change it, adding 2 gives
    # (2+1)/(sqrt(2)*sqrt(5)) = .949.
    c = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert greedy_order(c).tolist() == [0, 2, 1]
    np.testing.assert_allclose(prefix_cka(c, [0, 2, 1])[:2], [2 / 5**0.5, 3 / 10**0.5])


def test_constant_neurons_come_first_in_the_worst_order_and_not_in_the_best():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6))
    x[:, [1, 4]] = 3.0
    c = moments(x).scatter
    assert greedy_order(c, worst=True)[:2].tolist() == [1, 4]
    assert set(greedy_order(c)[:2]).isdisjoint({1, 4})
    assert greedy_order(np.zeros((4, 4))).tolist() == [0, 1, 2, 3]


def test_ties_by_rounding_go_to_the_lowest_position():
    c = np.eye(5)
    c[3, 3] += 4e-16
    assert greedy_order(c).tolist() == [0, 1, 2, 3, 4]
    assert greedy_order(c, worst=True).tolist() == [0, 1, 2, 3, 4]


def test_greedy_against_the_best_of_all_subsets():
    exact = []
    for seed in range(20):
        x = representation((60, 8, seed))
        c = moments(x).scatter
        best, worst = prefix_cka(c, greedy_order(c)), prefix_cka(c, greedy_order(c, worst=True))
        for k in range(1, 8):
            every = [similarity(c, list(s)) for s in combinations(range(8), k)]
            assert min(every) - 1e-12 <= worst[k - 1] <= best[k - 1] <= max(every) + 1e-12
            exact.append(best[k - 1] > max(every) - 1e-12)
            assert exact[-1] or k > 1
        subset = greedy_order(c)[:3]
        assert linear_cka(x[:, subset], x) == pytest.approx(best[2], abs=1e-12)
    # Greedy need not be optimal (it can be .19 short), but on eight neurons it mostly is.
    assert np.mean(exact) > 0.9


def test_bad_matrices_are_refused():
    with pytest.raises(CriticalMassError, match="square"):
        greedy_order(np.ones((2, 3)))
    with pytest.raises(CriticalMassError, match="NaN"):
        greedy_order(np.full((2, 2), np.nan))
