"""``NeuronSelector`` keeps scikit-learn's contract and the selectors' choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import criticalmass as cm
from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.registry import select
from criticalmass.selectors.sklearn_selector import NeuronSelector

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 10)) * np.arange(1, 11)
Y = np.arange(60) % 3


@parametrize_with_checks([NeuronSelector(), NeuronSelector("anova"), NeuronSelector("leverage")])
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("selector", ["random", "variance-high", "anova"])
def test_it_keeps_what_the_selector_puts_first(selector: str) -> None:
    fitted = cm.NeuronSelector(selector, 4, seed=3).fit(X, Y)
    order = select(selector, moments(X, Y), seed=3).order
    assert order is not None
    assert set(fitted.get_support(indices=True)) == set(order[:4])
    np.testing.assert_array_equal(fitted.transform(X), X[:, np.sort(order[:4])])


def test_by_hand() -> None:
    x = np.array([[0.0, 0.0, 9.0, 1.0], [0.0, 5.0, 0.0, 1.0], [0.0, -5.0, 0.0, 2.0]])
    fitted = cm.NeuronSelector("variance-high", 2).fit(x)
    assert fitted.get_support().tolist() == [False, True, True, False]
    assert fitted.set_output(transform="pandas").transform(x).columns.tolist() == ["x1", "x2"]
    assert fitted.get_feature_names_out(["a", "b", "c", "d"]).tolist() == ["b", "c"]


@given(d=st.integers(1, 40), share=st.floats(0.001, 1.0), seed=st.integers(0, 5))
def test_a_share_keeps_its_rounded_number(d: int, share: float, seed: int) -> None:
    x = np.zeros((3, d))
    indices = cm.NeuronSelector(n_kept=share, seed=seed).fit(x).indices_
    assert indices.size == max(1, round(share * d))
    assert (np.diff(indices) > 0).all()
    every = cm.NeuronSelector(n_kept=d, seed=seed).fit(x).indices_
    assert every.tolist() == list(range(d))


def test_subsets_of_one_seed_are_nested() -> None:
    small, large = (set(cm.NeuronSelector(n_kept=k, seed=1).fit(X).indices_) for k in (3, 6))
    assert small < large
    assert set(cm.NeuronSelector(n_kept=6, seed=2).fit(X).indices_) != large


def test_given_indices() -> None:
    fitted = cm.NeuronSelector.from_indices([7, 2], 10)
    np.testing.assert_array_equal(fitted.transform(X), X[:, [2, 7]])
    again = clone(fitted).fit(X)
    np.testing.assert_array_equal(again.transform(X), X[:, [2, 7]])
    with pytest.raises(ValueError, match="X has 9 features, but NeuronSelector is expecting 10"):
        fitted.transform(X[:, :9])
    for wrong in ([10], [-1], [1, 1], [], [0.5], [[1]]):
        with pytest.raises(CriticalMassError, match="from 0 to 9, each once"):
            cm.NeuronSelector.from_indices(wrong, 10)


def test_before_a_probe() -> None:
    probe = make_pipeline(cm.NeuronSelector("anova", 3), cm.LogisticProbe()).fit(X, Y)
    assert probe.predict(X).shape == (60,)


@pytest.mark.parametrize("n_kept", [0, 11, 0.0, 1.5, True, "3", np.nan])
def test_an_invalid_n_kept_is_refused(n_kept: Any) -> None:
    with pytest.raises(CriticalMassError, match=r"n_kept=.* must be a whole number from 1 to 10"):
        cm.NeuronSelector(n_kept=n_kept).fit(X)


def test_invalid_selectors_are_refused() -> None:
    with pytest.raises(CriticalMassError, match="did you mean 'random'"):
        cm.NeuronSelector("radnom").fit(X)
    with pytest.raises(CriticalMassError, match="is a projection and keeps no columns"):
        cm.NeuronSelector("pca-top").fit(X)
    with pytest.raises(ValueError, match="requires y to be passed"):
        cm.NeuronSelector("anova").fit(X)
