"""The whole way on real data: scikit-learn's digits, from vectors to the redundancy table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import criticalmass as cm
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

MEASURES = ("logistic", "ridge", "lda", "knn", "centroid", "cka")
FRACTIONS = (0.05, 0.2, 0.5, 0.8, 1.0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    x, y = load_digits(return_X_y=True)
    folder = tmp_path_factory.mktemp("digits")
    np.savez(folder / "digits.npz", X=x.astype(np.float32), y=y)
    return cm.import_features(folder / "digits.npz", out=folder / "store")


@pytest.fixture(scope="module")
def run(digits: FeatureStore) -> Run:
    out = digits.path.parent / "run"
    asked: dict[str, Any] = {"fractions": FRACTIONS, "measures": MEASURES}
    # In two steps, as one would: first the question, then its rivals.
    cm.sweep(digits, out=out, **asked, seeds=3)
    return cm.sweep(digits.path, out=out, **asked, seeds=2, selectors=tuple(SELECTORS))


def test_every_cell_has_its_value(run: Run) -> None:
    table = run.frame()
    # "random" with 3 seeds from the first step, the other random selectors with 2.
    n_random = 3 + 2 * (sum(info.is_random for info in SELECTORS.values()) - 1)
    n_fixed = sum(not info.is_random for info in SELECTORS.values())
    per_measure = 1 + len(FRACTIONS) * (n_random + n_fixed)
    assert len(table) == len(MEASURES) * per_measure
    assert set(table["status"]) == {"ok"}
    assert table["value"].between(0, 1 + 1e-12).all()
    assert table["artifact"].notna().all()
    predictions = run.predictions(table[table["measure"] != "cka"])
    shares = (predictions == run.labels()).mean(axis=1)
    np.testing.assert_array_equal(shares, table[table["measure"] != "cka"]["value"])


def test_the_logistic_value_is_that_of_scikit_learn(digits: FeatureStore, run: Run) -> None:
    rows = run.frame().query("measure == 'logistic' and selector == 'random' and seed == 1")
    train, test = digits.features("train").array(), digits.features("test").array()
    for row in rows.to_dict("records"):
        kept = run.order("random", "penultimate", 1)[: row["n_kept"]]
        scaler = StandardScaler().fit(train[:, kept].astype(np.float64))
        c = 1.0 / (len(train) * row["l2"])
        reference = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        reference.fit(scaler.transform(train[:, kept]), digits.labels("train"))
        logits = reference.decision_function(scaler.transform(test[:, kept]))
        differ = logits.argmax(axis=1) != run.artifact(row)
        # Both are within a tolerance of one optimum: only a sample on a border may fall either way.
        best, second = np.sort(logits, axis=1)[:, ::-1][:, :2].T
        assert (best - second)[differ].max(initial=0.0) < 0.1
        assert differ.mean() < 0.02


def test_more_neurons_do_more_and_all_do_what_the_layer_does(run: Run) -> None:
    curve = cm.curves(run, resamples=50)
    for (selector, measure), rows in curve.groupby(["selector", "measure"]):
        means = rows.sort_values("n_kept")["mean"].to_numpy()
        assert means[0] < means[-1], (selector, measure)
        if not SELECTORS[selector].is_projection:
            assert means[-1] == pytest.approx(rows["value_full"].iloc[0], abs=1e-12)
    # CKA does not see a rotation.
    turned = curve.query("measure == 'cka' and selector == 'pca-top' and n_kept == 64")
    assert turned["mean"].iloc[0] == pytest.approx(1.0, abs=1e-9)


def test_the_table_of_redundancy(run: Run) -> None:
    table = cm.redundancy(run, deltas=(0.5, 0.9), resamples=100)
    assert len(table) == 2 * len(MEASURES) * len(SELECTORS)
    assert table["critical_mass"].notna().all()
    assert (table["dr_low"] <= table["dr"]).all()
    assert (table["dr"] <= table["dr_high"]).all()
    best = table.set_index(["selector", "measure", "delta"])["critical_mass"]
    for measure in MEASURES:
        assert best["random", measure, 0.5] <= best["random", measure, 0.9]
        # Digits live on few directions, and their borders are blank.
        assert best["pca-top", measure, 0.9] <= best["random", measure, 0.9]
        assert best["norm-high", measure, 0.9] <= best["norm-low", measure, 0.9]


def test_the_run_outlives_its_store_and_its_process(run: Run, digits: FeatureStore) -> None:
    again = Run.open(run.path)
    np.testing.assert_array_equal(again.labels(), digits.labels("test"))
    assert again.class_names == tuple(str(digit) for digit in range(10))
    assert again.manifest["dataset"] == "digits"
