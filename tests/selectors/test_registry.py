from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.cka import linear_cka
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import SELECTORS, select, selector_info
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, grid_for, sizes_for
from criticalmass.selectors.supervised import shrunk_covariance


@pytest.fixture(scope="module")
def layer_input():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    x = rng.standard_normal((300, 12)) * np.linspace(1, 4, 12) + 1.0
    x += 0.3 * rng.standard_normal((3, 12))[labels]
    return SelectorInput(12, rows=x.astype(np.float32), labels=labels)


@pytest.fixture(scope="module")
def layer_moments(layer_input):
    return layer_input.moments


def test_default_grid_on_a_layer_of_1280():
    assert sizes_for(DEFAULT_FRACTIONS, 1280) == (
        13, 26, 64, 128, 192, 256, 384, 512, 640, 896, 1152, 1280,
    )  # fmt: skip


def test_sizes_never_fall_to_zero_and_merge_when_equal():
    # int(0.0005 * 384) is 0 neurons: the trap of the authors' code.
    assert sizes_for([0.0005], 384) == (1,)
    assert grid_for([1.0, 0.01, 0.02], 3) == ((0.01, 1), (1.0, 3))


@pytest.mark.parametrize("bad", [[], [0.0], [1.1], [-0.1], [float("nan")]])
def test_bad_fractions_are_refused(bad):
    with pytest.raises(CriticalMassError, match="fraction"):
        sizes_for(bad, 10)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_gives_one_full_order_or_projection(name, layer_input):
    selection = select(name, layer_input, seed=3)
    assert (selection.order is None) != (selection.projection is None)
    if selection.order is not None:
        assert sorted(selection.order) == list(range(12))
    else:
        assert selection.projection.shape == (12, 12)
        assert selection.projection.dtype == np.float64
        assert np.linalg.matrix_rank(selection.projection) == 12
    assert selection.selector == name


@pytest.mark.parametrize("name", SELECTORS)
def test_only_random_selectors_depend_on_the_seed(name, layer_input):
    def arrays(seed):
        selection = select(name, layer_input, seed=seed)
        return selection.order if selection.order is not None else selection.projection

    np.testing.assert_array_equal(arrays(1), arrays(1))
    assert np.array_equal(arrays(1), arrays(2)) != SELECTORS[name].is_random
    assert select(name, layer_input, seed=7).seed == (7 if SELECTORS[name].is_random else 0)


def test_norms_are_those_of_the_uncentred_columns():
    x = np.array([[3.0, 0.0, 1.0, 5.0], [3.0, 1.0, -1.0, -5.0]])
    order = select("norm-high", moments(x), seed=0).order
    assert order.tolist() == [3, 0, 2, 1]  # L2 norms 3 -> 50, 0 -> 18, 2 -> 2, 1 -> 1, squared
    assert select("norm-low", moments(x), seed=0).order.tolist() == [1, 2, 0, 3]


def test_norm_ties_keep_the_order_of_the_layer():
    x = np.ones((4, 5))
    x[:, 2] = 2.0
    assert select("norm-high", moments(x), seed=0).order.tolist() == [2, 0, 1, 3, 4]
    assert select("norm-low", moments(x), seed=0).order.tolist() == [0, 1, 3, 4, 2]


def test_pca_finds_the_axes_of_most_variance(layer_moments):
    top = select("pca-top", layer_moments, seed=0).projection
    variance = np.diag(top.T @ layer_moments.covariance @ top)
    assert np.all(np.diff(variance) <= 0)
    np.testing.assert_allclose(
        variance[::-1], np.linalg.eigvalsh(layer_moments.covariance), rtol=1e-9
    )
    np.testing.assert_allclose(top.T @ top, np.eye(12), atol=1e-12)
    assert np.all(top[np.argmax(np.abs(top), axis=0), range(12)] > 0)
    np.testing.assert_array_equal(
        select("pca-bottom", layer_moments, seed=0).projection, top[:, ::-1]
    )


def test_lda_finds_the_axes_that_separate_the_classes():
    # Noise of very unequal variance: the class differences are invisible to PCA.
    rng = np.random.default_rng(0)
    labels = np.arange(6000) % 3
    noise = np.linalg.cholesky(np.cov(rng.standard_normal((6, 40))) + 0.01 * np.eye(6)).T
    x = rng.standard_normal((6000, 6)) @ noise + 0.3 * rng.standard_normal((3, 6))[labels]
    projection = select("lda-top", moments(x, labels), seed=0).projection
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(x, labels).transform(x)
    ours = (x @ projection)[:, :2]
    for axis in range(2):
        assert abs(np.corrcoef(ours[:, axis], reference[:, axis])[0, 1]) > 0.999
    # The others are uncorrelated with each other, most variance first, of unit length, and
    # orthogonal to the axes, in standardised units.
    basis = projection * x.std(axis=0)[:, None]
    np.testing.assert_allclose(np.linalg.norm(basis, axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(basis[:, :2].T @ basis[:, 2:], 0.0, atol=1e-12)
    rest = np.cov((x @ projection)[:, 2:].T)
    np.testing.assert_allclose(rest - np.diag(np.diagonal(rest)), 0.0, atol=1e-10)
    assert np.all(np.diff(np.diagonal(rest)) <= 0.0)


def test_the_shrinkage_of_lda_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    for n, d in ((40, 60), (500, 5), (9, 1)):
        x = rng.standard_normal((n, d)) * np.linspace(1, 3, d)
        ours = shrunk_covariance(np.cov(x.T, bias=True).reshape(d, d), n, floor=0.0)
        np.testing.assert_allclose(ours, OAS().fit(x).covariance_, rtol=1e-12)


@pytest.mark.parametrize("kind", ["one sample per class", "collapsed", "constant", "one neuron"])
def test_lda_is_a_basis_of_degenerate_layers(kind):
    labels = np.arange(30) % 3
    x = {
        "one sample per class": np.random.default_rng(0).standard_normal((30, 8)),
        "collapsed": np.random.default_rng(0).standard_normal((3, 8))[labels],
        "constant": np.ones((30, 8)),
        "one neuron": labels[:, None] + 0.1 * np.random.default_rng(0).standard_normal((30, 1)),
    }[kind]
    labels = np.arange(30) if kind == "one sample per class" else labels
    projection = select("lda-top", moments(x, labels), seed=0).projection
    assert np.linalg.matrix_rank(projection) == x.shape[1]


def test_random_projections_have_the_stated_law():
    wide = moments(np.eye(400))
    gaussian = select("projection-gaussian", wide, seed=0).projection
    assert abs(gaussian.mean()) < 1e-3
    assert gaussian.std() == pytest.approx(1 / np.sqrt(400), rel=0.02)
    uniform = select("projection-uniform", wide, seed=0).projection
    np.testing.assert_allclose(np.linalg.norm(uniform, axis=0), 1.0, rtol=1e-12)
    assert uniform.min() >= 0.0
    # Uniform on [0, 1) has second moment 1/3 and mean 1/2.
    assert uniform.mean() == pytest.approx(0.5 / np.sqrt(400 / 3), rel=0.01)


def test_a_rotation_is_a_basis_of_the_standardised_layer(layer_input):
    x = layer_input.rows.astype(np.float64)
    standardised = (x - x.mean(axis=0)) / x.std(axis=0)
    projection = select("rotation", layer_input, seed=5).projection
    basis = projection * x.std(axis=0)[:, None]
    np.testing.assert_allclose(basis.T @ basis, np.eye(12), atol=1e-12)
    # The whole basis holds what the layer holds: equal similarity, equal fit without a penalty.
    assert linear_cka(x @ projection, standardised) == pytest.approx(1.0, abs=1e-12)
    answers = np.eye(3)[layer_input.labels]
    fits = []
    for features in (x, x @ projection):
        design = np.column_stack([features, np.ones(len(x))])
        fits.append(design @ np.linalg.lstsq(design, answers, rcond=None)[0])
    np.testing.assert_allclose(fits[1], fits[0], atol=1e-10)


def test_rotations_are_uniform_over_all_bases():
    layer = moments(np.vstack([np.eye(4), -np.eye(4)]))
    scale = np.sqrt(0.25)
    bases = scale * np.stack([select("rotation", layer, seed=s).projection for s in range(4000)])
    # Haar: each entry has mean 0 and variance 1/d, also on the diagonal, and so has each entry
    # of the basis turned by any fixed basis.
    fixed = np.linalg.qr(np.arange(16.0).reshape(4, 4) ** 2 + np.eye(4))[0]
    for some in (bases, fixed @ bases):
        np.testing.assert_allclose(some.mean(axis=0), 0.0, atol=0.04)
        np.testing.assert_allclose((some**2).mean(axis=0), 0.25, atol=0.02)


def test_a_rotation_does_not_scale_constant_neurons_and_ignores_units(layer_input):
    x = np.hstack([layer_input.rows, np.full((300, 1), 7.0)])
    projection = select("rotation", moments(x), seed=0).projection
    plain = np.vstack([projection[:12] * x.std(axis=0)[:12, None], projection[12:]])
    np.testing.assert_allclose(plain.T @ plain, np.eye(13), atol=1e-12)
    units = 10.0 ** np.arange(-6, 7)
    other = select("rotation", moments(x * units), seed=0).projection
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose((centred * units) @ other, centred @ projection, atol=1e-7)


class CountingRows:
    """Rows that count how often they are read from the start."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.n_reads = x, x.shape, x.dtype, 0

    def __getitem__(self, key):
        self.n_reads += isinstance(key, slice) and (key.start or 0) == 0 and key.stop != 1
        return self.x[key]


@pytest.mark.parametrize("name", SELECTORS)
def test_a_store_is_read_for_what_the_rule_needs_and_no_more(name, layer_input):
    needs = SELECTORS[name].needs
    rows = CountingRows(layer_input.rows)
    counted = SelectorInput(12, rows=rows, labels=layer_input.labels)
    if needs != "probe":
        select(name, counted, seed=0)
        assert rows.n_reads == (needs != "nothing")
    plain = SelectorInput(12, rows=layer_input.rows)
    if SELECTORS[name].needs_labels:
        with pytest.raises(CriticalMassError, match="labels"):
            select(name, plain, seed=0)
    else:
        select(name, plain, seed=0)
    # Neurons in another order change the result, except for a rule that needs nothing.
    rolled = layer_input.moments.restrict(np.roll(np.arange(12), 5))
    if needs != "probe":
        one, other = (select(name, layer, seed=3) for layer in (layer_input, rolled))
        a, b = (s.projection if s.order is None else s.order for s in (one, other))
        assert np.array_equal(a, b) == (needs == "nothing")


def test_several_rules_share_one_reading(layer_input):
    rows = CountingRows(layer_input.rows)
    counted = SelectorInput(12, rows=rows, labels=layer_input.labels)
    for name in ("norm-high", "leverage", "anova", "greedy-lda", "cluster"):
        select(name, counted, seed=0)
    assert rows.n_reads == 1


def test_supervised_rules_refuse_one_class(layer_input):
    one_class = SelectorInput(
        12, rows=layer_input.rows, labels=np.zeros(300, dtype=np.int64), n_classes=3
    )
    for name in (name for name, info in SELECTORS.items() if info.needs_labels):
        with pytest.raises(CriticalMassError, match="one class"):
            select(name, one_class, seed=0)


def test_unknown_selector_gets_a_did_you_mean(layer_moments):
    with pytest.raises(CriticalMassError, match="'radnom'; did you mean 'random'"):
        selector_info("radnom")
    with pytest.raises(CriticalMassError, match="seed=-1"):
        select("random", layer_moments, seed=-1)
