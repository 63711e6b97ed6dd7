"""The ridge law: its limits, its algebra, and comparison with fitted subsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks.what_if_ridge import ridge_by_classes, ridge_by_members, ridge_by_samples

import criticalmass as cm
from criticalmass.analysis.predicted_curves import LAW, SUBSETS, WHOLE
from criticalmass.core import progress
from criticalmass.errors import CriticalMassError
from criticalmass.theory import ridge
from criticalmass.theory.degrees_of_freedom import degrees_of_freedom, full_penalty
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import Sampling
from criticalmass.theory.neuron_penalties import neuron_penalties
from criticalmass.theory.ridge import predict_ridge
from criticalmass.theory.ridge_heads import (
    RidgeHeads,
    exchangeable_heads,
    heads_of_medium,
    neuron_heads,
)

Task = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
FINE = Sampling(draws=40, rows=10_000)


def task(d: int, *, heavy: int = 0, n: int = 1500, classes: int = 4, seed: int = 0) -> Task:
    """Gaussian classes in a rotated basis; ``heavy`` neurons copy one signal instead."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    scale = np.arange(1, d + 1) ** -0.5
    centres = rng.standard_normal((classes, d)) * scale
    y = np.arange(n + 1000) % classes
    # Noise grows with width, so that the difficulty of the task does not change.
    x = (centres[y] + 0.3 * np.sqrt(d) * rng.standard_normal((y.size, d)) * scale) @ rotation
    if heavy:
        x[:, :heavy] = x[:, :1] + 0.1 * x[:, :heavy]
    x = x.astype(np.float32)
    return (x[:n], y[:n]), (x[n:], y[n:])


def fitted(
    basis: Eigenbasis, test: tuple[np.ndarray, np.ndarray], k: int, l2: float, subsets: int
) -> np.ndarray:
    """Accuracy and squared error of ridge probes fitted on random subsets, (2, subsets)."""
    x, truth = basis.scaling.apply(test[0]), np.eye(basis.n_classes)[test[1]]
    out = np.empty((2, subsets))
    for s in range(subsets):
        subset = np.random.default_rng(s).permutation(basis.n_neurons)[:k]
        moment = basis.second_moment[np.ix_(subset, subset)] + l2 * np.eye(k)
        head = np.linalg.solve(moment, basis.cross_moment[subset])
        responses = x[:, subset] @ head + basis.share
        out[0, s] = (responses.argmax(axis=1) == test[1]).mean()
        out[1, s] = ((responses - truth) ** 2).sum(axis=1).mean()
    return out


@pytest.mark.parametrize("law", [exchangeable_heads, lambda *args: neuron_heads(*args)[0]])
def test_with_more_classes_than_neurons_the_heads_are_those_of_all_classes(law: Any) -> None:
    train, _ = task(12, n=240, classes=30)
    basis = eigenbasis(*train)
    compact, axes = basis.with_class_axes()
    assert axes is not None
    assert axes.shape == (12, 30)
    heads, along_axes = law(basis, 5, 1e-2), law(compact, 5, 1e-2)
    np.testing.assert_allclose(along_axes.mean @ axes, heads.mean, atol=1e-6)
    covariance = axes.T @ along_axes.root @ along_axes.root.T @ axes
    np.testing.assert_allclose(covariance, heads.root @ heads.root.T, atol=1e-6)
    assert compact.n_classes == basis.n_classes


def test_with_more_classes_than_neurons_the_law_is_near_fitted_subsets() -> None:
    train, test = task(24, n=3000, classes=40)
    law = predict_ridge(train, test, [12, 24], l2=1e-2, law="neuron", sampling=FINE)
    accuracy, error = fitted(eigenbasis(*train), test, 12, 1e-2, 60)
    assert law.accuracy[0, 0] == pytest.approx(accuracy.mean(), abs=0.02)
    assert law.error[0, 0] == pytest.approx(error.mean(), rel=0.01)
    assert law.accuracy[1, 0] == law.accuracy_full


def test_thousands_of_classes_are_scored_on_fewer_rows_and_it_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge, "_MOST_RESPONSES", 4 * 200)
    train, test = task(12, n=200)
    with progress.display():
        few = predict_ridge(train, test, [6], l2=1e-2, law="neuron")
    said = capsys.readouterr().err
    assert "4 classes drawn heads are scored on 200 of 1,000 test samples" in said
    asked = predict_ridge(train, test, [6], l2=1e-2, law="neuron", sampling=Sampling(rows=200))
    assert few.accuracy_std == pytest.approx(asked.accuracy_std)


def test_small_subsets_are_drawn_and_the_result_says_so() -> None:
    """A few informative neurons: the accuracy of 4 neurons is far from that of the mean head."""
    rng = np.random.default_rng(4)
    y = np.arange(3000) % 5
    x = rng.standard_normal((3000, 80))
    x[:, :6] += 4.0 * rng.standard_normal((5, 6))[y]
    train, test = (x[:2000], y[:2000]), (x[2000:], y[2000:])
    basis = eigenbasis(*train)
    sizes = [4, 64, 70, 80]
    drawn = predict_ridge(basis, test, sizes, l2=0.01, members=(1, 4))
    law = predict_ridge(basis, test, sizes, l2=0.01, members=(1, 4), law="neuron")
    sources = [SUBSETS, SUBSETS, LAW, WHOLE]
    assert drawn.source.tolist() == [[name, name.replace(SUBSETS, LAW)] for name in sources]
    assert law.source[:, 0].tolist() == [LAW, LAW, LAW, WHOLE]
    truth = fitted(basis, test, 4, 0.01, 400)[0]
    error = truth.std() * np.sqrt(1 / 24 + 1 / 400)
    assert drawn.accuracy[0, 0] == pytest.approx(truth.mean(), abs=4 * error)
    assert drawn.accuracy_std[0, 0] == pytest.approx(truth.std(), rel=0.6)
    fine = predict_ridge(basis, test, [4], l2=0.01, sampling=Sampling(draws=600))
    error = truth.std() * np.sqrt(1 / 600 + 1 / 400)
    assert fine.accuracy[0, 0] == pytest.approx(truth.mean(), abs=4 * error)
    assert abs(law.accuracy[0, 0] - truth.mean()) > 6 * error, "the law is off where it is not used"
    np.testing.assert_array_equal(drawn.accuracy[2:], law.accuracy[2:])
    np.testing.assert_array_equal(drawn.accuracy[:, 1], law.accuracy[:, 1])


@pytest.mark.parametrize("law", ["exchangeable", "neuron"])
def test_all_neurons_give_the_whole_layers_probe_without_spread(law: Any) -> None:
    train, test = task(24)
    predicted = predict_ridge(train, test, [24], l2=0.1, law=law)
    accuracy, error = fitted(eigenbasis(*train), test, 24, 0.1, 1)[:, 0]
    assert predicted.accuracy[0, 0] == pytest.approx(accuracy, abs=1e-3)
    assert predicted.error[0, 0] == pytest.approx(error, rel=1e-4)
    assert predicted.accuracy_std[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert predicted.penalty[0] == 0.1
    assert predicted.accuracy_full == pytest.approx(predicted.accuracy[0, 0])


def test_the_variance_is_the_derivative_of_the_equation_for_mu() -> None:
    """Perturb A by t x x' and solve for mu again: dmu/dt is the variance m_x of theory.md."""
    train, test = task(20)
    basis, k, l2 = eigenbasis(*train), 6, 0.2
    x = basis.scaling.apply(test[0][:1])[0].astype(float)
    step = 1e-5
    moved = np.linalg.eigvalsh(basis.second_moment + step * np.outer(x, x))
    mu = full_penalty(basis.eigenvalues, [k], l2)[0]
    slope = (full_penalty(np.maximum(moved, 0), [k], l2)[0] - mu) / step
    heads = exchangeable_heads(basis, k, l2)
    assert ((heads.spread * (x @ basis.vectors)) ** 2).sum() == pytest.approx(slope, rel=1e-3)
    # The form of theory.md, with F'.
    shrunk = 1 / (basis.eigenvalues + mu)
    df = degrees_of_freedom(basis.eigenvalues, mu)
    form = (mu - l2) * mu * ((shrunk * (x @ basis.vectors)) ** 2).sum()
    form /= (k - df) + (mu - l2) * (basis.eigenvalues * shrunk**2).sum()
    assert form == pytest.approx(slope, rel=1e-3)


def test_drawn_heads_have_the_covariance_of_the_law() -> None:
    train, test = task(10, classes=3)
    basis = eigenbasis(*train)
    heads = exchangeable_heads(basis, 4, 0.1)
    x = basis.scaling.apply(test[0][:2])
    drawn = np.einsum("xi,ric->rxc", x, heads.draw(np.random.default_rng(0), 20_000))
    sampled = np.einsum("rxc,rye->xyce", drawn, drawn) / len(drawn)
    along = (x @ basis.vectors) * heads.spread
    law = np.einsum("xi,yi,ce->xyce", along, along, heads.mean.T @ heads.mean)
    assert sampled == pytest.approx(law, abs=0.05 * np.abs(law).max())


def test_exchangeable_neurons_make_both_laws_the_same() -> None:
    rng = np.random.default_rng(3)
    d, n = 60, 6000
    y = np.arange(n) % 2
    shared = rng.standard_normal((n, 1)) + y[:, None]
    x = (shared + rng.standard_normal((n, d))).astype(np.float32)
    both = [
        predict_ridge((x[:4000], y[:4000]), (x[4000:], y[4000:]), [3, 12, 40], l2=0.1, law=law)
        for law in ("exchangeable", "neuron")
    ]
    assert both[0].accuracy == pytest.approx(both[1].accuracy, abs=0.01)
    assert both[0].error == pytest.approx(both[1].error, rel=0.02)


def test_the_law_holds_and_its_error_shrinks_with_width() -> None:
    deviations = []
    for d in (16, 128):
        train, test = task(d)
        basis = eigenbasis(*train)
        measured = fitted(basis, test, d // 4, 0.05, 300)
        law = predict_ridge(basis, test, [d // 4], l2=0.05, law="exchangeable", sampling=FINE)
        deviations.append(abs(law.error[0, 0] - measured[1].mean()))
        if d == 128:
            assert law.accuracy[0, 0] == pytest.approx(measured[0].mean(), abs=0.01)
            assert law.accuracy_std[0, 0] == pytest.approx(measured[0].std(), rel=0.4)
            assert law.error_std[0, 0] == pytest.approx(measured[1].std(), rel=0.5)
    assert deviations[1] < 0.5 * deviations[0]
    assert deviations[1] < 0.005


def test_a_penalty_per_neuron_holds_where_neurons_are_not_exchangeable() -> None:
    train, test = task(96, heavy=60)
    basis, k = eigenbasis(*train), 12
    measured = fitted(basis, test, k, 0.01, 200)
    one, own = (
        predict_ridge(basis, test, [k], l2=0.01, law=law, sampling=FINE)
        for law in ("exchangeable", "neuron")
    )
    deviations = [abs(law.error[0, 0] - measured[1].mean()) for law in (one, own)]
    assert deviations[1] < 0.3 * deviations[0]
    assert own.error_std[0, 0] == pytest.approx(measured[1].std(), rel=0.4)


@pytest.mark.parametrize("law", ["exchangeable", "neuron"])
def test_an_ensemble_divides_the_variance_by_its_members(law: Any) -> None:
    train, test = task(32)
    predicted = predict_ridge(train, test, [5], l2=0.1, members=(1, 4, 10**8), law=law)
    one, four, limit = predicted.error[0]
    assert four - limit == pytest.approx((one - limit) / 4, rel=1e-3)
    assert predicted.accuracy_std[0, 2] == pytest.approx(0.0, abs=1e-3)
    accuracy = predicted.accuracy[0]
    assert accuracy[0] < accuracy[1] < accuracy[2] + 0.01


def test_the_number_of_kept_neurons_does_not_vary() -> None:
    """Uncorrelated equal neurons of equal weight: the count alone would move their sum."""
    d, n = 40, 4000
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    x = (rng.standard_normal((n, d)) + 0.3 * y[:, None]).astype(np.float32)
    basis = eigenbasis(x, y)
    heads = _neuron(basis, 10, 0.5)
    x = np.ones((1, d), np.float32)
    drawn = np.einsum("xi,ric->rxc", x, heads.draw(np.random.default_rng(1), 4000))
    measured = [
        sum(
            np.linalg.solve(
                basis.second_moment[np.ix_(subset, subset)] + 0.5 * np.eye(10),
                basis.cross_moment[subset],
            )[:, 0]
        )
        for subset in (np.random.default_rng(s).permutation(d)[:10] for s in range(400))
    ]
    assert drawn[:, 0, 0].std() == pytest.approx(np.std(measured), rel=0.35)


def _neuron(basis: Eigenbasis, size: int, l2: float) -> RidgeHeads:
    return neuron_heads(basis, size, l2)[0]


def test_rows_beyond_the_sample_count_for_means_and_spread() -> None:
    train, test = task(40, n=1000)
    basis = eigenbasis(*train)
    whole = predict_ridge(basis, test, [6], l2=0.1, law="neuron", sampling=Sampling(200, 1000))
    part = predict_ridge(basis, test, [6], l2=0.1, law="neuron", sampling=Sampling(200, 250))
    assert part.accuracy[0, 0] == pytest.approx(whole.accuracy[0, 0], abs=0.015)
    assert part.accuracy_std[0, 0] == pytest.approx(whole.accuracy_std[0, 0], rel=0.3)
    assert part.accuracy_full == whole.accuracy_full
    # Without spread over subsets the sample of rows must not matter.
    few = predict_ridge(basis, test, [40], l2=0.1, law="neuron", sampling=Sampling(2, 20))
    assert few.accuracy[0, 0] == pytest.approx(whole.accuracy_full)


def test_uncorrelated_neurons_vary_as_their_own_choice() -> None:
    """Neuron j's weight is w_j = b_j/(a_j + l2), kept with probability p: variance w_j^2 p(1-p)."""
    variances, cross, l2, p = np.array([4.0, 1.0, 0.5]), np.array([[1.0], [2.0], [-1.0]]), 0.1, 0.3
    medium = neuron_penalties(np.diag(variances), p, l2, np.ones(3))
    heads = heads_of_medium(medium, cross, p)
    weight = cross[:, 0] / (variances + l2)
    assert heads.mean[:, 0] == pytest.approx(p * weight, rel=0.01)
    deviation = np.diag(heads.resolvent) * heads.own * np.abs(heads.mean[:, 0])
    assert deviation == pytest.approx(np.abs(weight) * np.sqrt(p * (1 - p)), rel=0.01)
    assert (heads.shared < 0.01 * heads.own * np.abs(heads.mean[:, 0])).all()


def test_the_variance_of_responses_is_that_of_fitted_subsets() -> None:
    """Total variance of a response over fitted subsets, where neurons are not exchangeable."""
    train, test = task(64, heavy=30)
    basis, k = eigenbasis(*train), 10
    x = basis.scaling.apply(test[0][:300])
    measured = []
    for s in range(400):
        subset = np.random.default_rng(s).permutation(64)[:k]
        moment = basis.second_moment[np.ix_(subset, subset)] + 0.1 * np.eye(k)
        measured.append(x[:, subset] @ np.linalg.solve(moment, basis.cross_moment[subset]))
    heads = _neuron(basis, k, 0.1)
    drawn = np.einsum("xi,ric->rxc", x, heads.draw(np.random.default_rng(0), 400))
    assert drawn.var(axis=0).mean() == pytest.approx(np.var(measured, axis=0).mean(), rel=0.1)


def test_the_best_penalty_is_chosen_on_the_given_rows() -> None:
    train, test = task(60, n=70)
    grid = [1e-6, 0.3, 1e6]
    chosen = predict_ridge(train, test, [55], l2=grid)
    assert chosen.l2.tolist() == [0.3]
    fixed = predict_ridge(train, test, [55], l2=0.3)
    assert chosen.accuracy == pytest.approx(fixed.accuracy)
    assert fixed.accuracy[0, 0] > predict_ridge(train, test, [55], l2=1e-6).accuracy[0, 0] + 0.05
    shuffled = (test[0], np.zeros_like(test[1]))
    assert predict_ridge(train, test, [55], l2=grid, validation=shuffled).l2[0] in grid


def test_the_public_name_is_the_function() -> None:
    assert cm.predict_ridge is predict_ridge


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l2": 0.0}, "above 0"),
        ({"l2": ()}, "at least one penalty"),
        ({"members": (0,)}, "members"),
        ({"law": "neurons"}, "did you mean 'neuron'"),
        ({"sizes": [25]}, "24 neurons"),
        ({"test": (np.zeros((9, 3)), np.zeros(9, int))}, "24 neurons"),
        ({"test": (np.zeros((9, 24)), np.full(9, 7))}, "4 classes"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    train, test = task(24)
    arguments = {"test": test, "sizes": [3], **options}
    with pytest.raises(CriticalMassError, match=words):
        predict_ridge(train, arguments.pop("test"), arguments.pop("sizes"), **arguments)


def test_samples_dip_where_they_are_as_many_as_neurons() -> None:
    train, test = task(60, n=1200)
    table = ridge_by_samples(train, test, [40], [20, 44, 1200], l2=1e-6)
    assert table["setting"].tolist() == [20, 44, 1200]
    errors = table["error"].to_numpy()
    assert errors[1] > 2 * errors[0] > 2 * errors[2]


def test_fewer_classes_and_more_members_are_easier() -> None:
    train, test = task(40)
    classes = ridge_by_classes(train, test, [5, 20], [2, 4], l2=0.1)
    two, four = (classes[classes["setting"] == c] for c in (2, 4))
    assert (two["accuracy"].to_numpy() > four["accuracy"].to_numpy()).all()
    members = ridge_by_members(train, test, [5], [1, 8], l2=0.1)
    assert members["accuracy"][1] > members["accuracy"][0]
    with pytest.raises(CriticalMassError, match="5 classes"):
        ridge_by_classes(train, test, [5], [5], l2=0.1)
    with pytest.raises(CriticalMassError, match="1 training samples"):
        ridge_by_samples(train, test, [5], [1], l2=0.1)


def test_figures_draw_a_line_per_group() -> None:
    from matplotlib.figure import Figure

    from benchmarks import figures_theory_ridge as figures

    train, test = task(20, n=300)
    table = ridge_by_samples(train, test, [4, 10], [10, 40, 300], l2=0.1)
    for draw in (
        figures.accuracy_against_samples,
        figures.accuracy_against_classes,
        figures.accuracy_against_members,
    ):
        ax = draw(table, Figure().subplots())
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert len(texts) == table["setting" if "classes" in draw.__name__ else "n_kept"].nunique()
        with pytest.raises(CriticalMassError, match="no row"):
            draw(pd.DataFrame(columns=table.columns), Figure().subplots())
