"""The law of logistic probes: exact at its ends, close to fitted subsets in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.measures.logistic.probe import LogisticProtocol, logistic
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.theory.degrees_of_freedom import full_penalty
from criticalmass.theory.eigenbasis import eigenbasis
from criticalmass.theory.logistic import LogisticSampling, predict_logistic, race_winner

FloatArray = NDArray[np.float64]
Split = tuple[FloatArray, NDArray[np.int64]]


def rotated(
    n: int, d: int, classes: int, *, imbalance: float = 0.0, seed: int = 0
) -> tuple[Split, Split]:
    """Gaussian classes in a few directions of a decaying spectrum, then rotated at random."""
    rng = np.random.default_rng(seed)
    share = np.exp(-imbalance * np.arange(classes))
    y = np.concatenate(
        [np.arange(classes), rng.choice(classes, 2 * n - classes, p=share / share.sum())]
    )
    means = rng.standard_normal((classes, d)) * 0.6
    x = (rng.standard_normal((2 * n, d)) + means[y]) * (1.0 + np.arange(d)) ** -0.5
    x = x @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    return (x[:n], y[:n]), (x[n:], y[n:])


def measured(train: Split, test: Split, sizes: tuple[int, ...], seeds: int) -> FloatArray:
    """Accuracy (seeds, sizes) of fitted subsets, as a sweep measures it."""
    d = train[0].shape[1]
    orders = np.array([np.random.default_rng(900 + s).permutation(d) for s in range(seeds)])
    task = ProbeTask(
        x_train=train[0],
        y_train=train[1],
        x_test=test[0],
        n_classes=int(train[1].max()) + 1,
        orders=orders,
        sizes=sizes,
        validation=validation_rows(train[1]),
    )
    return np.asarray((logistic(task).predictions == test[1]).mean(axis=2))


@pytest.mark.parametrize(("classes", "imbalance"), [(2, 0.0), (6, 0.4)])
def test_fitted_subsets_of_a_rotated_layer_agree(classes: int, imbalance: float) -> None:
    train, test = rotated(1500, 60, classes, imbalance=imbalance)
    sizes = (10, 20, 40)
    found = measured(train, test, sizes, 24)
    law = predict_logistic(train, test, sizes)
    doubt = np.hypot(found.std(axis=0, ddof=1) / np.sqrt(24), law.sampling_error)
    np.testing.assert_array_less(np.abs(law.accuracy - found.mean(axis=0)), 3 * doubt + 0.005)
    ratio = law.std / found.std(axis=0, ddof=1)
    assert ((ratio > 0.4) & (ratio < 2.5)).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_the_whole_layer_is_the_full_fit_without_scatter(classes: int) -> None:
    train, test = rotated(400, 12, classes)
    law = predict_logistic(train, test, [6, 12], l2=1e-2)
    fits = cm.fit_probes(*train, [np.arange(12)], [12], [1e-2])
    full = (fits.predict(test[0])[0, 0, 0] == test[1]).mean()
    assert law.accuracy[-1] == pytest.approx(full, abs=0.006)
    assert law.std[-1] == pytest.approx(0.0, abs=1e-12)
    assert law.sampling_error[-1] == pytest.approx(0.0, abs=1e-12)
    assert law.penalty[-1] == pytest.approx(1e-2, rel=1e-6)


def test_fewer_neurons_take_a_larger_penalty_and_lose_accuracy() -> None:
    train, test = rotated(600, 40, 4)
    law = predict_logistic(train, test, [4, 10, 25, 40], l2=1e-2)
    assert (np.diff(law.penalty) < 0).all()
    assert (np.diff(law.accuracy) > 0).all()
    assert (np.diff(law.std) < 0).all()


def test_the_penalty_is_that_of_ridge_at_the_curvature_of_the_fit() -> None:
    # Next to no signal: the curvature of two even classes stays at 1/4 of (1, -1), that is 1/2.
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((4000, 20)), np.arange(4000) % 2
    law = predict_logistic((x, y), (x[:50], y[:50]), [5], l2=0.1)
    values = eigenbasis(x, y).eigenvalues
    assert law.penalty[0] == pytest.approx(0.5 * full_penalty(values, [5], 0.2)[0], rel=0.01)


def test_more_neurons_than_samples_and_constant_ones_and_absent_classes() -> None:
    (x, y), (xt, yt) = rotated(60, 90, 3)
    x, xt = x.copy(), xt.copy()
    x[:, 7], xt[:, 7] = 4.0, 4.0
    law = predict_logistic((x, 2 * y), (xt, 2 * yt), [10, 90])
    assert np.isfinite(law.accuracy).all()
    assert law.accuracy[1] > 0.5
    # A class that only the test rows have is always missed, and changes nothing else.
    strange = np.where(np.arange(yt.size) % 2 == 0, 1, 2 * yt)
    missed = predict_logistic((x, 2 * y), (xt, strange), [10, 90])
    kept = predict_logistic((x, 2 * y), (xt[1::2], 2 * yt[1::2]), [10, 90])
    np.testing.assert_allclose(missed.accuracy, kept.accuracy / 2, atol=0.01)


@settings(max_examples=5, deadline=None)
@given(
    classes=st.integers(2, 4), d=st.integers(2, 5), n=st.integers(12, 40), seed=st.integers(0, 99)
)
def test_any_shape_gives_shares(classes: int, d: int, n: int, seed: int) -> None:
    train, test = rotated(n, d, classes, seed=seed)
    sampling = LogisticSampling(subsets=4, voters=2, pairs=2)
    law = predict_logistic(train, test, range(1, d + 1), sampling=sampling)
    assert law.accuracy.shape == law.std.shape == law.l2.shape == (d,)
    assert ((law.accuracy >= 0) & (law.accuracy <= 1)).all()
    np.testing.assert_allclose(law.chosen.sum(axis=1), 1.0)
    assert law.std[-1] == pytest.approx(0.0, abs=1e-12)


def test_the_same_seed_gives_the_same_prediction() -> None:
    train, test = rotated(100, 8, 3)
    first, again = (predict_logistic(train, test, [3, 5]) for _ in range(2))
    np.testing.assert_array_equal(first.accuracy, again.accuracy)


@pytest.mark.parametrize(
    ("accuracy", "winner"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9], 4),
        ([0.5, 0.6, 0.6, 0.9, 0.9], 1),  # no gain at the third: the rest is never tried
        ([0.5, 0.6, 0.5, 0.4, 0.3], 1),
        ([0.7], 0),
    ],
)
def test_the_race_by_hand(accuracy: list[float], winner: int) -> None:
    assert race_winner(np.array(accuracy), 1000) == winner


def test_the_race_is_the_sweeps() -> None:
    (x, y), test = rotated(500, 16, 3)
    by_class = np.argsort(y, kind="stable")  # so that it matters which rows are set apart
    train = x[by_class], y[by_class]
    law = predict_logistic(train, test, [16])
    task = ProbeTask(
        x_train=train[0],
        y_train=train[1],
        x_test=test[0],
        n_classes=3,
        orders=np.arange(16)[None],
        sizes=(16,),
        validation=validation_rows(train[1]),
    )
    assert law.l2[0] == logistic(task).l2[0, 0]
    assert law.strengths == LogisticProtocol().l2s


def test_mistakes_are_worded() -> None:
    train, test = rotated(40, 5, 2)
    with pytest.raises(cm.CriticalMassError, match="size 6 but the layer has 5 neurons"):
        predict_logistic(train, test, [6])
    with pytest.raises(cm.CriticalMassError, match="l2=0"):
        predict_logistic(train, test, [2], l2=0.0)
    with pytest.raises(cm.CriticalMassError, match="1 class"):
        predict_logistic((train[0], np.zeros(40, int)), test, [2])
    with pytest.raises(cm.CriticalMassError, match="one class per row"):
        predict_logistic((train[0], train[1][:3]), test, [2])
    with pytest.raises(cm.CriticalMassError, match="voters=1"):
        LogisticSampling(voters=1)
