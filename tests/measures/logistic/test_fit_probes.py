"""Logistic probes against scikit-learn, their certificate, and the cases that break solvers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression

import criticalmass as cm
from criticalmass.core.compute import Compute
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic import fit_probes as fit_probes_module
from criticalmass.measures.logistic import probe as probe_module
from criticalmass.measures.logistic import training_rows
from criticalmass.measures.logistic.fit_probes import ProbeFits
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import column_scaling


def features(
    n: int, d: int, n_classes: int, *, seed: int = 0, spread: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Correlated, skewed columns of different scales around class means."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    latent = rng.standard_normal((n, max(2, d // 2)))
    latent += spread * rng.standard_normal((n_classes, latent.shape[1]))[y]
    x = np.maximum(latent @ rng.standard_normal((latent.shape[1], d)), 0.0)
    x += 0.3 * rng.standard_normal((n, d))
    return x * rng.uniform(0.01, 30.0, d) + rng.uniform(-5, 5, d), y


def standardised(x: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def objective(
    z: NDArray[np.float64], y: NDArray[np.int64], w: NDArray[np.float64], b: object, l2: float
) -> float:
    logits = z @ w.T + np.asarray(b)
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(losses.mean() + 0.5 * l2 * (w**2).sum())


def optimum(z: NDArray[np.float64], y: NDArray[np.int64], n_classes: int, l2: float) -> float:
    """Minimise the same objective in float64 by a general-purpose optimiser."""
    n, d = z.shape
    onehot = np.eye(n_classes)[y]

    def value(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w, b = theta[: n_classes * d].reshape(n_classes, d), theta[n_classes * d :]
        logp = log_softmax(z @ w.T + b, axis=1)
        residual = (np.exp(logp) - onehot) / n
        grad = np.concatenate([(residual.T @ z + l2 * w).ravel(), residual.sum(axis=0)])
        return float(-(logp * onehot).sum() / n + 0.5 * l2 * (w**2).sum()), grad

    options = {"maxiter": 20000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-10}
    start = np.zeros(n_classes * (d + 1))
    return float(minimize(value, start, jac=True, method="L-BFGS-B", options=options).fun)


def fit(
    x: NDArray[np.float64], y: NDArray[np.int64], sizes: tuple[int, ...], l2: float, **more: float
) -> ProbeFits:
    order = np.random.default_rng(1).permutation(x.shape[1])[None]
    return cm.fit_probes(x, y, order, sizes, (l2,), **more)


@pytest.mark.parametrize(("n", "d", "n_classes"), [(400, 20, 3), (300, 60, 10), (60, 90, 4)])
@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_agrees_with_scikit_learn(n: int, d: int, n_classes: int, l2: float) -> None:
    x, y = features(n, d, n_classes)
    sizes = (max(1, d // 5), d // 2, d)
    fits = fit(x, y, sizes, l2)
    order = fits.orders[0]
    assert fits.converged.all()
    for j, k in enumerate(sizes):
        z = standardised(x)[:, order[:k]]
        reference = LogisticRegression(C=1 / (n * l2), tol=1e-10, max_iter=50000).fit(z, y)
        best = objective(z, y, reference.coef_, reference.intercept_, l2)
        assert fits.objective[0, j, 0] == pytest.approx(best, rel=2e-6)
        weights, _ = fits.heads[0][j][0]
        # A gap of g leaves ||W - W*||^2 <= 2 g / l2 (strong convexity).
        allowed = np.sqrt(2 * fits.gap[0, j, 0] / l2) + 1e-3 * np.abs(reference.coef_).max()
        assert np.linalg.norm(weights - reference.coef_) <= allowed
        agreement = (fits.predict(x)[0, j, 0] == reference.predict(z)).mean()
        assert agreement > 0.995


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(12, 120),
    d=st.integers(1, 40),
    n_classes=st.integers(2, 6),
    log_l2=st.floats(-4, 0.5),
    tol=st.sampled_from([1e-1, 1e-2, 1e-4]),
    seed=st.integers(0, 10**6),
)
def test_the_certificate_is_never_below_the_true_gap(
    n: int, d: int, n_classes: int, log_l2: float, tol: float, seed: int
) -> None:
    x, y = features(n, d, n_classes, seed=seed)
    l2 = 10.0**log_l2
    fits = fit(x, y, (d,), l2, tol=tol)
    z = standardised(x)[:, fits.orders[0]]
    weights, intercepts = fits.heads[0][0][0]
    reached = objective(z, y, weights.astype(np.float64), intercepts, l2)
    # The reported objective is the one of the returned weights, to float32 rounding of logits.
    assert fits.objective[0, 0, 0] == pytest.approx(reached, rel=1e-6)
    true_gap = reached - optimum(z, y, n_classes, l2)
    assert fits.gap[0, 0, 0] >= true_gap - 1e-7 * reached


def test_whole_layer_is_fitted_once_and_shared() -> None:
    x, y = features(200, 16, 4)
    orders = np.array([np.random.default_rng(s).permutation(16) for s in range(3)])
    fits = cm.fit_probes(x, y, orders, (4, 16), (1e-2, 1e-1))
    assert (fits.objective[:, 1] == fits.objective[0, 1]).all()
    assert (fits.passes[:, 1] == fits.passes[0, 1]).all()
    predicted = fits.predict(x)
    assert predicted.shape == (3, 2, 2, 200)
    assert (predicted[:, 1] == predicted[0, 1]).all()
    assert not (predicted[0, 0] == predicted[1, 0]).all()


def test_objective_does_not_depend_on_the_scale_or_origin_of_columns() -> None:
    x, y = features(150, 12, 3)
    rng = np.random.default_rng(3)
    moved = x * rng.uniform(0.1, 100, 12) + rng.normal(0, 10, 12)
    one, other = fit(x, y, (5, 12), 1e-2), fit(moved, y, (5, 12), 1e-2)
    np.testing.assert_allclose(one.objective, other.objective, rtol=3e-6)


def test_dead_and_duplicate_neurons() -> None:
    x, y = features(200, 10, 3)
    dead = np.concatenate([x, np.full((200, 3), 7.5)], axis=1)
    orders = np.arange(13)[None]
    fits = cm.fit_probes(dead, y, orders, (10, 13), (1e-2,))
    assert fits.converged.all()
    assert fits.objective[0, 0, 0] == pytest.approx(fits.objective[0, 1, 0], rel=3e-6)
    # m equal copies act as one column with penalty l2 / m: the optimum can only fall.
    twice = np.concatenate([x, x], axis=1)
    doubled = cm.fit_probes(twice, y, np.arange(20)[None], (10, 20), (1e-2,))
    halved = cm.fit_probes(x, y, np.arange(10)[None], (10,), (5e-3,))
    assert doubled.objective[0, 1, 0] == pytest.approx(halved.objective[0, 0, 0], rel=3e-6)


def test_separable_classes_still_converge() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 30)
    x = 50.0 * np.eye(4)[y] + rng.standard_normal((120, 4))
    fits = cm.fit_probes(x, y, np.arange(4)[None], (2, 4), (1e-1, 1e-3, 1e-5), tol=1e-4)
    assert fits.converged.all()
    assert (fits.predict(x)[0, 1] == y).all()


def test_more_neurons_than_samples_and_rank_deficiency() -> None:
    x, y = features(30, 80, 3)
    low = x[:, :5] @ np.random.default_rng(0).standard_normal((5, 80))
    for data in (x, low):
        assert fit(data, y, (8, 40, 80), 1e-2).converged.all()


def test_two_classes_and_string_labels() -> None:
    x, y = features(120, 6, 2)
    names = np.array(["cat", "dog"])[y]
    fits = cm.fit_probes(x, names, np.arange(6)[None], (6,), (1e-2,))
    assert set(fits.predict(x).ravel()) <= {"cat", "dog"}
    z = standardised(x)
    assert fits.objective[0, 0, 0] == pytest.approx(optimum(z, y, 2, 1e-2), rel=2e-6)


def test_a_thousand_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([np.arange(1000), rng.integers(0, 1000, 1000)])
    x = rng.standard_normal((1000, 24))[y] + 0.3 * rng.standard_normal((2000, 24))
    fits = cm.fit_probes(x, y, np.arange(24)[None], (12, 24), (1e-3,), tol=1e-3)
    assert fits.converged.all()
    assert (fits.predict(x)[0, 1, 0] == y).mean() > 0.9


def test_unfinished_fits_are_not_converged() -> None:
    x, y = features(300, 30, 5)
    fits = fit(x, y, (30,), 1e-5, max_passes=3)
    assert not fits.converged.any()
    assert (fits.gap > 1e-6 * fits.objective).all()


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_no_penalty_is_rejected(l2: float) -> None:
    x, y = features(20, 3, 2)
    with pytest.raises(CriticalMassError, match=f"l2={l2}"):
        fit(x, y, (3,), l2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_error_on_bad_features_names_row_and_neuron(bad: float) -> None:
    x, y = features(20, 5, 2)
    x[13, 2] = bad
    with pytest.raises(CriticalMassError, match=r"row 13 neuron 2"):
        fit(x, y, (3,), 1e-2)


def test_one_class_is_rejected() -> None:
    with pytest.raises(CriticalMassError, match="2 classes"):
        fit(np.random.default_rng(0).normal(size=(9, 3)), np.zeros(9, np.int64), (3,), 1e-2)


def test_streamed_rows_give_the_same_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(1500, 24, 4)
    held = fit(x, y, (6, 24), 1e-2)
    monkeypatch.setattr(training_rows.StreamedRows, "block_bytes", 4 * 24 * 300)
    monkeypatch.setattr(fit_probes_module, "Compute", partial(Compute, held_bytes=0))
    blocks, n_reads = training_rows.StreamedRows.blocks, []

    def counted(self: training_rows.StreamedRows) -> Any:
        n_reads.append(self.n)
        return blocks(self)

    monkeypatch.setattr(training_rows.StreamedRows, "blocks", counted)
    streamed = fit(x, y, (6, 24), 1e-2)
    n_passes = len(n_reads)
    labels = streamed.predict(x)
    assert len(n_reads) > n_passes > 1
    np.testing.assert_allclose(streamed.objective, held.objective, rtol=2e-6)
    assert (labels == held.predict(x)).mean() > 0.999


def test_half_precision_storage_does_not_move_accuracy() -> None:
    x, y = features(600, 24, 4, spread=0.4)
    full, half = fit(x, y, (12,), 1e-2), fit(x.astype(np.float16), y, (12,), 1e-2)
    value = [float((f.predict(x)[0, 0, 0] == y).mean()) for f in (full, half)]
    assert abs(value[0] - value[1]) < np.sqrt(value[0] * (1 - value[0]) / 600)


def test_same_bytes_twice() -> None:
    x, y = features(700, 20, 3)
    one, other = fit(x, y, (7, 20), 1e-3), fit(x, y, (7, 20), 1e-3)
    assert one.objective.tobytes() == other.objective.tobytes()
    assert one.heads[0][1][0][0].tobytes() == other.heads[0][1][0][0].tobytes()


def task_of(
    x: NDArray[np.float64], y: NDArray[np.int64], sizes: tuple[int, ...], n_classes: int
) -> ProbeTask:
    n, d = x.shape
    validation = np.zeros(n // 2, bool)
    validation[::5] = True
    orders = np.array([np.random.default_rng(s).permutation(d) for s in range(2)])
    half = n // 2
    return ProbeTask(x[:half], y[:half], x[half:], n_classes, orders, sizes, validation)


def test_the_search_picks_a_strength_as_good_as_the_full_grid() -> None:
    x, y = features(4000, 40, 5, spread=0.5)
    task = task_of(x, y, (8, 20, 40), 5)
    scores = probe_module.logistic(task)
    l2s = probe_module.LogisticProtocol().l2s
    fit_rows, n_validation = ~task.validation, int(task.validation.sum())
    z = standardised(x[:2000])
    for s in range(2):
        for j, k in enumerate(task.sizes):
            columns = task.orders[s][:k]
            accuracy = {}
            for l2 in l2s:
                probe = LogisticRegression(C=1 / (fit_rows.sum() * l2), tol=1e-8, max_iter=5000)
                probe.fit(z[fit_rows][:, columns], y[:2000][fit_rows])
                validation = z[task.validation][:, columns]
                accuracy[l2] = probe.score(validation, y[:2000][task.validation])
            best = max(accuracy.values())
            error = np.sqrt(best * (1 - best) / n_validation)
            assert accuracy[float(scores.l2[s, j])] >= best - error
    assert (scores.status == "ok").all()
    assert (scores.gap <= 1e-4).all()


def test_a_class_missing_from_training_is_never_predicted() -> None:
    x, y = features(400, 10, 4)
    y[:200][y[:200] == 2] = 3
    task = task_of(x, y, (10,), 4)
    scores = probe_module.logistic(task)
    assert 2 not in scores.predictions
    assert set(np.unique(scores.predictions)) == {0, 1, 3}


def test_heads_give_the_predictions_of_the_scores_on_raw_features() -> None:
    x, y = features(600, 12, 4)
    x = x * np.geomspace(1e-2, 1e3, 12) + 5.0
    y[:300][y[:300] == 2] = 3
    task = task_of(x, y, (3, 12), 4)
    scores = probe_module.logistic(task)
    assert scores.heads is not None
    for s, j in np.ndindex(task.grid):
        head = scores.heads[s][j]
        subset = x[300:][:, task.orders[s][: task.sizes[j]]]
        labels = head.classes[np.argmax(subset @ head.coef.T + head.intercept, axis=1)]
        assert np.mean(labels == scores.predictions[s, j]) > 0.99


def test_scores_have_the_status_not_converged() -> None:
    x, y = features(600, 30, 4)
    protocol = probe_module.LogisticProtocol(l2s=(1e-4,), tol=1e-8, max_passes=2)
    scores = probe_module.logistic(task_of(x, y, (30,), 4), protocol=protocol)
    assert (scores.status == "not_converged").all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_are_standardised_and_permuted(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((700, 9)) * 10.0 ** rng.integers(-6, 4, 9)).astype(dtype)
    x[0, :3] = [0.0, -0.0, np.finfo(dtype).smallest_subnormal]
    scaling, columns = column_scaling(x), rng.permutation(9)[:5]
    held = training_rows.ordered_rows(x, np.zeros(700, np.int64), scaling, columns)
    assert isinstance(held, training_rows.HeldRows)
    expected = ((x.astype(np.float64) - scaling.mean) / scaling.scale)[:, columns]
    np.testing.assert_allclose(held.x, expected, rtol=2e-6, atol=2e-6)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    x, y = features(300, 6, 3)
    z = standardised(x)
    near, far = fit(z, y, (6,), 1e-2), fit(z + 1e7, y, (6,), 1e-2)
    assert far.objective[0, 0, 0] == pytest.approx(near.objective[0, 0, 0], rel=1e-5)


def test_every_fit_of_few_neurons_is_certified_after_the_search() -> None:
    """A fit that the search left near its optimum makes a pass on all rows before it may end."""
    from criticalmass import synthetic
    from criticalmass.measures.logistic.probe import LogisticProtocol, logistic
    from criticalmass.measures.probes.task import ProbeTask

    data = synthetic.draw(synthetic.diffuse(32, 8, seed=3), n_train=300, n_test=300, seed=3)
    orders = np.array([np.random.default_rng(seed).permutation(32) for seed in range(10)])
    validation = np.random.default_rng(0).random(300) < 0.2
    labels = data.y_train.astype(np.int64)
    task = ProbeTask(data.x_train, labels, data.x_test, 2, orders, (1, 2, 4), validation)
    scores = logistic(task)
    assert (scores.status == "ok").all()
    assert scores.gap.max() <= LogisticProtocol().tol
