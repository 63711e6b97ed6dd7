"""Properties of diffused redundancy that hold for any curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from criticalmass.analysis.estimators import diffused_redundancy, monotone_cubic

ESTIMATORS = ("monotone", "strict", "interpolated", "nearest")
CROSSINGS = ("monotone", "strict", "interpolated")
deltas = st.floats(0.01, 1.0)


@st.composite
def curve(draw, rising=False):
    """Fractions with the whole layer, and values (n_fractions, n_seeds) in which f=1 is full."""
    n, n_seeds = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    cuts = draw(st.lists(st.integers(1, 999), min_size=n, max_size=n, unique=True))
    fractions = np.array([*sorted(cuts), 1000]) / 1000
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.random((n + 1, n_seeds))
    if rising:
        values = np.sort(values, axis=0)
    full = float(values[-1].mean())
    return fractions, values, full


@given(curve(), deltas)
def test_dr_lies_between_zero_and_one(some, delta):
    for estimator in ESTIMATORS:
        assert 0.0 <= diffused_redundancy(*some, delta, estimator=estimator) < 1.0


@given(curve(), deltas, deltas)
def test_a_larger_delta_never_gives_more_redundancy(some, one, two):
    low, high = sorted((one, two))
    for estimator in CROSSINGS:
        at_low = diffused_redundancy(*some, low, estimator=estimator)
        assert at_low >= diffused_redundancy(*some, high, estimator=estimator) - 1e-12


@given(curve(), deltas)
def test_interpolation_never_needs_more_than_the_next_grid_point(some, delta):
    strict = diffused_redundancy(*some, delta)
    for estimator in ("monotone", "interpolated"):
        assert diffused_redundancy(*some, delta, estimator=estimator) >= strict - 1e-12


@given(curve(), deltas)
def test_the_monotone_cubic_is_scipys(some, delta):
    fractions, values, full = some
    means = values.mean(axis=1)
    got = 1.0 - diffused_redundancy(*some, delta, estimator="monotone")
    passes = np.flatnonzero(means >= delta * full)
    first = int(passes[0])
    if first == 0 or fractions[first] == 1.0:
        assert got == pytest.approx(fractions[first])
        return
    cubic = PchipInterpolator(np.log(fractions), means)
    # The cubic crosses the threshold there: just before it is below, there it is not.
    assert fractions[first - 1] <= got <= fractions[first] + 1e-12
    assert float(cubic(np.log(got))) == pytest.approx(delta * full, abs=1e-8)


@pytest.mark.parametrize("below_top", [0.0, 1e-12, 1e-9, 1e-6, 1e-3])
def test_a_crossing_at_a_flat_end_of_the_cubic_is_on_it(below_top):
    # The cubic is flat at the second node from the right, a local maximum.
    fractions, means = np.array([0.1, 0.3, 0.6, 1.0]), np.array([0.1, 0.3, 0.9, 0.5])
    bar = 0.9 - below_top
    got = 1.0 - diffused_redundancy(fractions, means, bar, 1.0, estimator="monotone")
    cubic = PchipInterpolator(np.log(fractions), means)
    assert 0.3 < got <= 0.6
    assert float(cubic(np.log(got))) == pytest.approx(bar, abs=1e-13)
    # Just before it is below. Where it is flat, a change of value needs a longer way.
    way = max(1e-6, 2.0 * below_top**0.5)
    assert float(cubic(np.log(got) - way)) < bar - 1e-13


@given(curve(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_a_curve_between_its_nodes_is_scipys(some, shares):
    fractions, values, _ = some
    nodes = np.log(fractions)
    at = nodes[0] + np.array([0.0, 1.0, *shares]) * (nodes[-1] - nodes[0])
    want = np.stack([PchipInterpolator(nodes, row)(at) for row in values.T])
    assert np.allclose(monotone_cubic(nodes, values.T, at), want, rtol=0, atol=1e-12)


@given(curve(), deltas, st.randoms(use_true_random=False))
def test_the_order_of_seeds_and_fractions_does_not_matter(some, delta, random):
    fractions, values, full = some
    seeds, rows = list(range(values.shape[1])), list(range(len(fractions)))
    random.shuffle(seeds)
    random.shuffle(rows)
    for estimator in CROSSINGS:
        want = diffused_redundancy(fractions, values, full, delta, estimator=estimator)
        got = diffused_redundancy(
            fractions[rows], values[rows][:, seeds], full, delta, estimator=estimator
        )
        assert got == pytest.approx(want, abs=1e-9)


@given(curve(), deltas, st.floats(0.01, 100.0))
def test_the_unit_of_the_measure_does_not_matter(some, delta, unit):
    fractions, values, full = some
    want = diffused_redundancy(fractions, values, full, delta)
    assert diffused_redundancy(fractions, values * unit, full * unit, delta) == want


@given(curve(), deltas)
def test_a_curve_equal_everywhere_is_at_the_floor(some, delta):
    fractions, values, _ = some
    flat = np.full_like(values, 0.7)
    for estimator in CROSSINGS:
        got = diffused_redundancy(fractions, flat, 0.7, delta, estimator=estimator)
        assert got == pytest.approx(1.0 - fractions[0], abs=1e-12)


@given(curve(rising=True), deltas)
def test_strict_is_the_definition(some, delta):
    fractions, values, full = some
    passing = [
        f for f, row in zip(fractions, values, strict=True) if row.mean() >= delta * full - 1e-12
    ]
    assert diffused_redundancy(*some, delta) == pytest.approx(1.0 - min(passing), abs=1e-12)
