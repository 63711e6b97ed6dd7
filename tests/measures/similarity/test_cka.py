from __future__ import annotations

import numpy as np
import pytest

from criticalmass.core.moments import moment_of_squares, moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.cka import (
    linear_cka,
    prefix_cka,
    prefix_cka_debiased,
)
from criticalmass.measures.similarity.cka_jackknife import (
    CkaVariant,
    JackknifeBlocks,
    prefix_cka_replicates,
    projection_cka_replicates,
)


def textbook_cka(x, y):
    """Kornblith et al. 2019: centred n x n Gram matrices, HSIC(K, L) / sqrt(HSIC HSIC)."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def textbook_debiased_cka(x, y):
    """Song et al. 2012, eq. 5, with n x n matrices whose diagonals are zero."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        total = np.trace(k @ m)
        total += (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        total -= 2 / (n - 2) * (one @ k @ m @ one)
        return total / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def second_moment(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.standard_normal((70, 24)) @ rng.standard_normal((24, 24)) + 2.0


@pytest.mark.parametrize("shape", [(40, 7, 5), (12, 30, 20), (20, 40, 6)])
@pytest.mark.parametrize(
    ("debiased", "textbook"), [(False, textbook_cka), (True, textbook_debiased_cka)]
)
def test_linear_cka_equals_the_textbook(shape, debiased, textbook):
    n, dx, dy = shape
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, dx)) + 1.0
    b = a[:, :1] * rng.standard_normal(dy) + rng.standard_normal((n, dy))
    assert linear_cka(a, b, debiased=debiased) == pytest.approx(textbook(a, b), abs=1e-10)


def test_debiased_cka_of_unrelated_noise_is_near_zero_where_the_biased_one_is_not():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((50, 200)), rng.standard_normal((50, 200))
    assert linear_cka(a, b) > 0.5
    assert abs(linear_cka(a, b, debiased=True)) < 0.05


def test_every_prefix_equals_the_textbook(x):
    order = np.random.default_rng(2).permutation(24)
    got = prefix_cka(second_moment(x), order)
    want = [textbook_cka(x[:, order[:k]], x) for k in range(1, 25)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
    assert got[-1] == pytest.approx(1.0, abs=1e-13)


def test_a_partial_order_is_the_beginning_of_the_full_one(x):
    c, order = second_moment(x), np.random.default_rng(3).permutation(24)
    np.testing.assert_allclose(prefix_cka(c, order[:9]), prefix_cka(c, order)[:9], rtol=1e-13)


def test_uncorrelated_neurons_of_equal_variance_by_hand():
    # C = I: CKA(k) = k / (sqrt(k) sqrt(d)) = sqrt(k/d).
    np.testing.assert_allclose(
        prefix_cka(np.eye(16), np.arange(16)), np.sqrt(np.arange(1, 17) / 16), rtol=1e-14
    )


@pytest.mark.parametrize("scale", [1e-160, 1e-6, 1e160])
def test_the_scale_of_the_second_moment_does_not_matter(x, scale):
    order = np.random.default_rng(4).permutation(24)
    np.testing.assert_allclose(
        prefix_cka(second_moment(x) * scale, order), prefix_cka(second_moment(x), order), rtol=1e-12
    )


def test_dead_neurons_score_zero_and_a_dead_layer_is_an_error(x):
    dead = x.copy()
    dead[:, [3, 5]] = 0.7
    c = second_moment(dead - dead[:1])
    values = prefix_cka(c, np.r_[3, 5, np.setdiff1d(np.arange(24), [3, 5])])
    assert values[:2].tolist() == [0.0, 0.0]
    assert values[2] > 0.0
    assert values[-1] == pytest.approx(1.0)
    assert linear_cka(dead[:, [3, 5]], dead) == 0.0
    with pytest.raises(CriticalMassError, match="every neuron is constant"):
        prefix_cka(np.zeros((3, 3)), [0, 1, 2])
    with pytest.raises(CriticalMassError, match="both constant"):
        linear_cka(np.ones((5, 2)), np.ones((5, 3)))


@pytest.mark.parametrize("n", [5, 9, 60])
def test_every_debiased_prefix_from_second_moments_equals_the_n_by_n_formula(n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 12)) @ rng.standard_normal((12, 12)) + 3.0
    order = rng.permutation(12)
    m = moments(x)
    squares = moment_of_squares(x, m.mean, chunk=7)
    got = prefix_cka_debiased(m.scatter, squares, n, order)
    want = [textbook_debiased_cka(x[:, order[:k]], x) for k in range(1, 13)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
    direct = [linear_cka(x[:, order[:k]], x, debiased=True) for k in range(1, 13)]
    np.testing.assert_allclose(got, direct, rtol=0, atol=1e-9)
    assert got[-1] == pytest.approx(1.0, abs=1e-12)
    few = prefix_cka_debiased(m.scatter * 1e100, squares * 1e200, n, order[:5])
    np.testing.assert_allclose(few, got[:5], rtol=1e-10)


def test_a_neuron_that_differs_in_one_sample_has_no_unbiased_hsic(x):
    x = x.copy()
    x[:, 3] = 0.25
    x[11, 3] = 9.0
    m = moments(x)
    order = np.r_[3, np.setdiff1d(np.arange(24), [3])]
    got = prefix_cka_debiased(m.scatter, moment_of_squares(x, m.mean), len(x), order)
    assert got[0] == 0.0
    assert got[1] != 0.0
    assert linear_cka(x[:, [3]], x, debiased=True) == 0.0
    assert prefix_cka(m.scatter, order)[0] > 0.0


def subsets_of(kind):
    """Three orders or one projection of 24 neurons, the function, and the rows of each subset."""
    rng = np.random.default_rng(6)
    if kind == "orders":
        orders = np.stack([rng.permutation(24) for _ in range(3)])
        return orders, prefix_cka_replicates, [lambda x, o=o: x[:, o] for o in orders]
    p = rng.standard_normal((24, 24))
    return p, projection_cka_replicates, [lambda x: x @ p]


@pytest.mark.parametrize("kind", ["orders", "projection"])
@pytest.mark.parametrize(
    ("debiased", "textbook"), [(False, textbook_cka), (True, textbook_debiased_cka)]
)
def test_leaving_a_block_out_equals_computing_without_it(x, kind, debiased, textbook, monkeypatch):
    monkeypatch.setattr(JackknifeBlocks, "chunk_rows", 16)
    subsets, compute, transforms = subsets_of(kind)
    sizes = (1, 5, 24)
    values, replicates = compute(x, subsets, sizes, n_blocks=6, variant=CkaVariant(debiased))
    assert values.shape == (len(transforms), 3)
    assert replicates.shape == (len(transforms), 3, 6)
    blocks = np.array_split(np.random.default_rng(0).permutation(70), 6)
    for o, transform in enumerate(transforms):
        for s, size in enumerate(sizes):
            want = textbook(transform(x)[:, :size], x)
            assert values[o, s] == pytest.approx(want, abs=1e-10)
            for b, block in enumerate(blocks):
                rest = np.delete(x, block, axis=0)
                want = textbook(transform(rest)[:, :size], rest)
                assert replicates[o, s, b] == pytest.approx(want, abs=1e-10)


def test_a_neuron_that_lives_in_one_block_is_dead_without_it(x):
    lonely = x.copy()
    block = np.array_split(np.random.default_rng(0).permutation(70), 5)[2]
    lonely[:, 0] = 0.3
    lonely[block, 0] = np.arange(len(block)) + 0.1
    _, replicates = prefix_cka_replicates(lonely, np.arange(24)[None], (1,), n_blocks=5)
    assert replicates[0, 0, 2] == 0.0
    assert np.all(replicates[0, 0, [0, 1, 3, 4]] > 0.0)


def test_few_samples_make_fewer_blocks(x):
    _, replicates = prefix_cka_replicates(x[:9], np.arange(24)[None], (3,))
    assert replicates.shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: prefix_cka(c[:2], [0]), "square"),
        (lambda c: prefix_cka(c, [0, 0]), "neuron 0 more than once"),
        (lambda c: prefix_cka(c, [0, 99]), "neuron 99.*24 neurons"),
        (lambda c: prefix_cka(c, []), "empty"),
        (lambda c: prefix_cka(np.full((2, 2), np.nan), [0]), "NaN"),
        (lambda c: prefix_cka(np.array([[1.0, np.nan], [np.nan, 1.0]]), [0]), "NaN"),
        (lambda c: linear_cka(c[:5], c[:6]), "5 samples and y has 6"),
        (lambda c: linear_cka(c[:3], c[:3], debiased=True), "at least 4"),
        (lambda c: linear_cka(c[0], c[0]), "n_samples, n_neurons"),
        (lambda c: linear_cka(np.full((5, 2), np.inf), c[:5]), "NaN"),
        (lambda c: prefix_cka_replicates(c, [np.arange(24)], [25]), r"\[25\].*1 to 24"),
        (lambda c: prefix_cka_replicates(c[:3], [np.arange(24)], [2]), "3 samples"),
        (
            lambda c: prefix_cka_replicates(c[:5], [[0]], [1], variant=CkaVariant(debiased=True)),
            "debiased.*at least 6",
        ),
        (lambda c: projection_cka_replicates(c, np.eye(3), [2]), r"\(3, 3\).*24 neurons"),
        (lambda c: prefix_cka_debiased(c, c[:2], 9, [0]), r"\(2, 24\)"),
        (lambda c: prefix_cka_debiased(c, -abs(c), 9, [0]), "not negative"),
        (lambda c: prefix_cka_debiased(c, c * c, 3, [0]), "at least 4 samples, got 3"),
        (lambda c: moment_of_squares(c, np.zeros(3)), "mean has shape.*24 neurons"),
    ],
)
def test_mistakes_are_named_in_one_line(call, says, x):
    with pytest.raises(CriticalMassError, match=says) as caught:
        call(second_moment(x))
    assert "\n" not in str(caught.value)


def without_component_scores(x, n_axes):
    """Regress the first component scores out of every neuron."""
    z = x - x.mean(axis=0)
    scores = np.linalg.svd(z, full_matrices=False)[0][:, :n_axes]
    return z - scores @ (scores.T @ z)


@pytest.mark.parametrize("n_axes", [0, 1, 5, 20])
def test_cka_without_top_axes_is_cka_of_what_regression_leaves(x, n_axes):
    rest = without_component_scores(x, n_axes)
    order = np.random.default_rng(3).permutation(24)
    got = prefix_cka(second_moment(x), order, without_top=n_axes)
    want = [textbook_cka(rest[:, order[:k]], rest) for k in range(1, 25)]
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_one_dominant_axis_hides_that_neurons_share_nothing_else():
    # Each neuron is a common signal of variance 100 and noise of its own of variance 1. With the
    # signal, a few neurons have a CKA of about 1. Without it nothing is shared, and C is nearly a
    # multiple of the identity: the CKA of k neurons is sqrt(k / d), .5 for 10 of 40.
    rng = np.random.default_rng(0)
    x = 10.0 * rng.standard_normal((20000, 1)) + rng.standard_normal((20000, 40))
    c = second_moment(x)
    assert prefix_cka(c, np.arange(40))[3] > 0.99
    assert prefix_cka(c, np.arange(40), without_top=1)[9] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("is_projection", [False, True])
def test_replicates_without_top_axes_are_those_of_the_samples_left(x, is_projection):
    rng = np.random.default_rng(4)
    subsets = rng.standard_normal((24, 9)) if is_projection else rng.permutation(24)[None]
    compute = projection_cka_replicates if is_projection else prefix_cka_replicates
    values, replicates = compute(x, subsets, (3, 9), n_blocks=6, variant=CkaVariant(without_top=2))

    def cka_of(rows, k):
        rest = without_component_scores(rows, 2)
        return textbook_cka(
            rest @ subsets[:, :k] if is_projection else rest[:, subsets[0, :k]], rest
        )

    blocks = JackknifeBlocks.split(x, 6, None).blocks
    for j, k in enumerate((3, 9)):
        assert values[0, j] == pytest.approx(cka_of(x, k), abs=1e-9)
        for b, members in enumerate(blocks):
            want = cka_of(np.delete(x, members, axis=0), k)
            assert replicates[0, j, b] == pytest.approx(want, abs=1e-9)


def test_a_layer_without_variance_outside_the_top_axes_is_refused(x):
    flat = x[:, :2] @ np.random.default_rng(0).standard_normal((2, 8))
    with pytest.raises(CriticalMassError, match="no variance without its 2 top principal axes"):
        prefix_cka(second_moment(flat), np.arange(8), without_top=2)
    with pytest.raises(CriticalMassError, match="without_top=-1"):
        prefix_cka(second_moment(x), [0], without_top=-1)
