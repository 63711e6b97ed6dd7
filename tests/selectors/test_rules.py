"""The rules that use features, against references, by hand, and on unusual layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import qr
from scipy.spatial.distance import squareform
from scipy.stats import ortho_group
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import criticalmass as cm
from criticalmass.core.moments import Moments, moments
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.clusters import correlations
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.pivoting import pivots
from criticalmass.selectors.registry import SELECTORS, select

shapes = st.tuples(st.integers(24, 40), st.integers(3, 9), st.integers(0, 2**32 - 1))
RULES = [n for n, info in SELECTORS.items() if info.needs in ("moments", "classes")]
RULES = [n for n in RULES if not SELECTORS[n].is_projection]
CONSTANT_LAST = ("variance-high", "leverage", "cluster", "anova", "greedy-lda")


def labelled(shape):
    n, d, seed = shape
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.standard_normal((n, d)) @ (rng.standard_normal((d, d)) + 2 * np.eye(d))
    return x + rng.standard_normal((3, d))[y], y


def order(name, x, y=None):
    return select(name, moments(x, y), seed=0).order.tolist()


@settings(max_examples=50, deadline=None)
@given(shape=shapes)
def test_leverage_is_column_pivoted_qr_and_blind_to_rotated_rows(shape):
    x, _ = labelled(shape)
    centred = x - x.mean(axis=0)
    _, _, reference = qr(centred, mode="economic", pivoting=True)
    assert order("leverage", x) == reference.tolist()
    turned = ortho_group.rvs(len(x), random_state=shape[2]) @ centred
    rotated_moments = Moments(len(x), np.zeros(x.shape[1]), turned.T @ turned)
    assert select("leverage", rotated_moments, seed=0).order.tolist() == reference.tolist()


def test_leverage_by_hand_and_across_panels():
    # Variances 4, 5, 1; the second is the first, a tenth larger, plus a little: after
    # it, 4 - 4.4^2/5 = .128 is left of the first, and the third, though smallest, comes next.
    c = np.array([[4.0, 4.4, 0.0], [4.4, 5.0, 0.0], [0.0, 0.0, 1.0]])
    assert pivots(c).tolist() == [1, 2, 0]
    # More neurons than one panel of the factorisation holds, more than the rank.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 90)) @ rng.standard_normal((90, 150))
    m = moments(x)
    positions = pivots(m.scatter)
    _, _, reference = qr(x - x.mean(axis=0), mode="economic", pivoting=True)
    assert positions.tolist() == reference[:90].tolist()
    assert sorted(select("leverage", m, seed=0).order) == list(range(150))


@settings(max_examples=50, deadline=None)
@given(shape=shapes, data=st.data())
def test_separation_is_that_of_f_and_blind_to_units_and_origins(shape, data):
    x, y = labelled(shape)
    f, _ = f_classif(x, y)
    assert order("anova", x, y) == np.argsort(-f, kind="stable").tolist()
    assert order("anova-low", x, y) == np.argsort(f, kind="stable").tolist()
    units = data.draw(st.lists(st.sampled_from([-100.0, 0.5, 8.0]), min_size=9, max_size=9))
    moved = x * np.array(units[: x.shape[1]]) + np.array(units[: x.shape[1]])[::-1]
    for name in ("anova", "greedy-lda"):
        assert order(name, moved, y) == order(name, x, y)


def test_anova_by_hand():
    # Class means +-1 around 0 with spread 0, 1 and 3 inside: eta squared 1, 1/2 and 1/10; a
    # constant neuron and one that ignores the classes separate nothing.
    inside = np.tile([-1.0, 1.0], 4)
    means = np.repeat([-1.0, 1.0], 4)
    x = np.stack([means + 3 * inside, np.full(8, 7.0), means, inside, means + inside], axis=1)
    y = np.repeat([0, 1], 4)
    assert order("anova", x, y) == [2, 4, 0, 1, 3]
    assert order("anova-low", x, y) == [1, 3, 0, 4, 2]


def pillai(x, y, subset):
    """Trace of T_SS^-1 B_S from the data, by its definition."""
    part = x[:, subset] - x[:, subset].mean(axis=0)
    fitted = np.stack([part[y == c].mean(axis=0) for c in y])
    return np.trace(np.linalg.solve(part.T @ part, fitted.T @ fitted))


@settings(max_examples=40, deadline=None)
@given(shape=shapes)
def test_every_step_of_greedy_lda_adds_most_separation(shape):
    x, y = labelled(shape)
    selected = order("greedy-lda", x, y)
    assert selected[0] == order("anova", x, y)[0]
    for k in range(len(selected)):
        rivals = [pillai(x, y, [*selected[:k], j]) for j in selected[k:]]
        assert rivals[0] >= max(rivals) - 1e-9


def test_greedy_lda_prefers_a_new_neuron_to_a_copy():
    rng = np.random.default_rng(1)
    y = np.arange(600) % 3
    one, other = (y == 0) + 0.5 * rng.standard_normal((2, 600)), (y == 1) + rng.standard_normal(600)
    x = np.stack([one[0], one[0] + 0.01 * one[1], other], axis=1)
    assert set(order("anova", x, y)[:2]) == {0, 1}
    assert order("greedy-lda", x, y)[1] == 2


@settings(max_examples=40, deadline=None)
@given(shape=shapes)
def test_prefixes_of_cluster_represent_every_cluster_of_the_cut(shape):
    x, _ = labelled(shape)
    m = moments(x)
    similarity, live = correlations(m)
    assert live.all()
    np.testing.assert_allclose(similarity, np.abs(np.corrcoef(x.T)), atol=1e-9)
    tree = linkage(squareform(1 - similarity, checks=False), method="complete")
    selected = select("cluster", m, seed=0).order
    for k in range(1, x.shape[1] + 1):
        clusters = fcluster(tree, k, criterion="maxclust")
        assert len(set(clusters[selected[:k]])) == clusters.max()


def test_cluster_takes_one_neuron_of_each_group():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 1, 1, 1, 2, 2, 0])
    signs = np.array([1, -1, 1, 1, -1, 1, 1, 1])
    x = rng.standard_normal((200, 3))[:, groups] * signs + 0.05 * rng.standard_normal((200, 8))
    selected = order("cluster", x)
    assert sorted(groups[selected[:3]]) == [0, 1, 2]


def test_probe_weights_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 3
    x = (rng.standard_normal((400, 7)) + 1.5 * rng.standard_normal((3, 7))[y]) * np.arange(1, 8)
    x[:, 4] = 5.0
    layer = SelectorInput(7, rows=x.astype(np.float32), labels=y)
    # Without validation rows the strongest penalty is used: l2 = 1, C = 1/n.
    reference = LogisticRegression(C=1 / 400, tol=1e-8, max_iter=5000)
    reference.fit(StandardScaler().fit_transform(x), y)
    np.testing.assert_allclose(layer.probe_weights, reference.coef_, atol=5e-3)
    sizes = np.linalg.norm(reference.coef_, axis=0)
    selected = select("probe-weight", layer, seed=0).order
    assert selected[-1] == 4
    # The fit is within 1e-4 of the optimum, so only near ties may swap.
    assert np.all(np.diff(sizes[selected]) < 5e-3)


@settings(max_examples=60, deadline=None)
@given(d=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_unusual_layers_get_an_order_and_ties_go_to_the_first(d, seed, data):
    rng = np.random.default_rng(seed)
    # Small integers on 2^4 samples: all means are exact, so equal neurons are equal to the bit.
    x = rng.integers(-3, 4, (16, d)).astype(float)
    kinds = data.draw(st.lists(st.sampled_from("vcd"), min_size=d, max_size=d))
    x[:, [k == "c" for k in kinds]] = 2.0
    twins = [j for j in range(1, d) if kinds[j] == "d"]
    for j in twins:
        x[:, j] = x[:, 0]
    constant = {j for j in range(d) if np.ptp(x[:, j]) == 0}
    for name in RULES:
        selected = order(name, x, np.arange(16) % 2)
        assert sorted(selected) == list(range(d)), name
        assert min(selected.index(j) for j in (0, *twins)) == selected.index(0), name
        if name in CONSTANT_LAST:
            last = selected[d - len(constant) :] if name != "anova" else sorted(constant)
            assert set(last) == constant, name


def test_one_class_is_refused_before_anything_is_computed(make_store, tmp_path, monkeypatch):
    store = make_store()
    zeros = {split: np.zeros(len(store.labels(split)), dtype=np.int64) for split in store.splits}
    monkeypatch.setattr(type(store), "labels", lambda self, split: zeros[split])
    with pytest.raises(CriticalMassError, match="one class, but anova, probe-weight"):
        cm.sweep(
            store,
            out=tmp_path / "run",
            selectors=("random", "anova", "probe-weight"),
            measures=("cka",),
        )


def test_a_sweep_takes_every_rule_and_stores_its_order(store, tmp_path):
    names = tuple(n for n, info in SELECTORS.items() if not info.is_projection)
    run = cm.sweep(
        store,
        out=tmp_path / "run",
        selectors=names,
        fractions=(0.3, 1.0),
        seeds=1,
        measures=("centroid",),
    )
    assert set(run.frame()["status"]) == {"ok"}
    layer_moments = moments(store.features("train"), store.labels("train"))
    for name in RULES:
        expected = select(name, layer_moments, seed=0).order
        np.testing.assert_array_equal(run.order(name, "penultimate", 0), expected)
