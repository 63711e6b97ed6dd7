"""Explanations agree with the laws, and with what a sweep measures."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.analysis.predicted_curves import LAW, SUBSETS, WHOLE, PredictedCurve
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.extraction.importing import import_features
from criticalmass.measures.probes.closed_form import ridge_path
from criticalmass.reporting.explain import explain
from criticalmass.reporting.explanation import (
    CKA_DELTA,
    CLASS_VARIANCE_SHARES,
    TASK_DELTA,
    Explanation,
)
from criticalmass.reporting.figures.draw import new_axes
from criticalmass.reporting.figures.predictions import predicted_curve, spectrum
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.degrees_of_freedom import full_penalty
from criticalmass.theory.eigenbasis import eigenbasis
from criticalmass.theory.held_out import Sampling
from criticalmass.theory.prediction import cka_curve, ridge_curve
from criticalmass.theory.sampled_ridge import ORDERS, sample_ridge
from criticalmass.theory.what_if import first_order_critical_mass

N_CLASSES, WIDTH = 4, 100


def blobs(seed: int = 0, n: int = 600, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Classes in correlated neurons of unequal variance."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    mix = world.standard_normal((20, width)) * (1 + np.arange(width) % 3)
    centres = 1.2 * world.standard_normal((N_CLASSES, 20))
    labels = np.arange(n) % N_CLASSES
    latent = centres[labels] + rng.standard_normal((n, 20))
    return (latent @ mix + rng.standard_normal((n, width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    train, y_train = blobs(1)
    test, y_test = blobs(2)
    folder = tmp_path_factory.mktemp("labelled")
    return import_features(
        {"train": train, "test": test},
        labels={"train": y_train, "test": y_test},
        out=folder / "store",
    )


@pytest.fixture(scope="module")
def explanation(labelled: FeatureStore) -> Explanation:
    return explain(labelled)


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_numbers_of_the_paragraph_are_those_of_the_tables(explanation: Explanation) -> None:
    task = explanation.task
    assert task is not None
    cka = explanation.mass("cka", CKA_DELTA)
    ridge = explanation.mass("ridge", TASK_DELTA)
    columns = ("critical_mass", "critical_mass_low", "critical_mass_high")
    mass, low, high = (int(cka[column]) for column in columns)
    task_mass, task_low, task_high = (int(ridge[column]) for column in columns)
    accuracy = round(ridge["value_full"], 3)
    expected = [WIDTH, round(explanation.prediction.participation_ratio)]
    expected += [mass, 0.9, low, high, 95, 5]
    expected += [N_CLASSES, task_mass, 95, accuracy, task_low, task_high, 95, 5]
    expected += [round(task.degrees_of_freedom), task.directions[0], WIDTH, 90, task.directions[1]]
    expected += [round(explanation.cka_twice_as_wide, 2)]
    wide_mass = task.critical_mass_twice_as_wide
    expected += [] if wide_mass == task.critical_mass else [wide_mass, task.critical_mass]
    assert numbers(explanation.paragraph) == pytest.approx(expected)
    assert task.critical_mass == task_mass
    shares = np.sort(explanation.spectrum["between"])[::-1]
    for share, count in zip(CLASS_VARIANCE_SHARES, task.directions, strict=True):
        assert shares[:count].sum() >= share - 1e-9 > shares[: count - 1].sum() - 2e-9


def test_cka_is_the_law_on_the_raw_test_features(
    labelled: FeatureStore, explanation: Explanation
) -> None:
    x = labelled.features("test").array().astype(np.float64)
    x -= x.mean(axis=0)
    for delta in (0.8, 0.9, 0.95):
        assert explanation.mass("cka", delta)["critical_mass"] == cm.cka_critical_mass(
            x.T @ x, delta
        )


def test_what_is_predicted_is_what_a_sweep_measures(labelled: FeatureStore, tmp_path: Path) -> None:
    run = cm.sweep(
        labelled, out=tmp_path / "run", seeds=30, measures=("ridge", "cka"),
        fractions=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7, 1.0),
    )  # fmt: skip
    explanation = explain(labelled, run=run, seeds=30)
    assert explanation.compared is not None
    assert explanation.compared_masses is not None
    assert set(explanation.compared["measure"]) == {"cka", "ridge"}
    cka = explanation.compared[explanation.compared["measure"] == "cka"]
    assert cka["deviation"].abs().max() < 3.5
    assert cka["error"].to_numpy() == pytest.approx(cka["std"].to_numpy() / np.sqrt(30))
    ridge = explanation.compared[explanation.compared["measure"] == "ridge"]
    drawn = ridge[ridge["source"] == SUBSETS]
    assert drawn["error"].to_numpy() == pytest.approx(drawn["std"] * np.sqrt(1 / 30 + 1 / ORDERS))
    assert ridge["residual"].abs().max() < 0.02
    masses = explanation.compared_masses
    assert set(masses["measure"]) == {"cka", "ridge"}
    measured = masses.loc[masses["measure"] == "cka", "measured"].to_numpy(float)
    predicted = masses.loc[masses["measure"] == "cka", "predicted"].to_numpy(float)
    assert np.abs(measured - predicted).max() < 4
    assert "diffuseness test" in explanation.paragraph


def test_few_test_samples_give_nearly_the_critical_mass_of_many(tmp_path: Path) -> None:
    """0.3 d test samples against 10 d: debiased CKA agrees, plain CKA does not."""
    rng, d = np.random.default_rng(3), 100
    mix = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.arange(1, d + 1)[:, None] ** -0.35
    masses = {}
    for n in (30, 1000):
        x = (rng.standard_normal((n, d)) @ mix).astype(np.float32)
        store = import_features({"train": 2 * x[:9], "test": x}, out=tmp_path / f"store{n}")
        masses[n] = explain(store)
    many = masses[1000].mass("cka", CKA_DELTA)
    assert set(masses[1000].masses["measure"]) == {"cka"}
    few = masses[30].mass("cka-debiased", CKA_DELTA)["critical_mass"]
    plain = masses[30].mass("cka", CKA_DELTA)
    assert abs(few - many["critical_mass"]) < 0.12 * d
    assert plain["critical_mass_high"] < many["critical_mass_low"]
    assert f"{few} random neurons reach a debiased CKA of 0.9" in masses[30].paragraph
    assert "Plain CKA reaches it with" in masses[30].paragraph
    assert "on 30 test samples; 500 or more are needed" in masses[30].paragraph
    run = cm.sweep(tmp_path / "store30", out=tmp_path / "run", measures=("cka",), seeds=3)
    compared = explain(tmp_path / "store30", run=run)
    assert compared.compared_masses is not None
    assert set(compared.compared_masses["measure"]) == {"cka"}, "plain with plain"
    three = import_features({"train": 2 * x[:9], "test": x[:3]}, out=tmp_path / "three")
    with pytest.warns(UserWarning, match="3 test samples are too few for 100 neurons.*give 500"):
        assert "debiased" not in explain(three).paragraph


def test_small_ridge_subsets_are_fitted_as_by_hand() -> None:
    x, y = blobs(3, n=300, width=7)
    test, truth = blobs(4, n=200, width=7)
    basis = eigenbasis(x, y)
    accuracy = sample_ridge(
        basis, (test, truth), [1, 3], l2s=(0.1,), sampling=Sampling(draws=400)
    ).accuracy
    z = (test - basis.scaling.mean) / basis.scaling.scale
    every = []
    for kept in combinations(range(7), 3):
        index = np.array(kept)
        matrix, cross = basis.second_moment[np.ix_(index, index)], basis.cross_moment[index]
        head = ridge_path(matrix, cross, np.arange(3), [3], [0.1])[0][0]
        every.append(((z[:, index] @ head + basis.share).argmax(axis=1) == truth).mean())
    spread = np.std(every) / np.sqrt(400)
    assert accuracy[:, 1].mean() == pytest.approx(np.mean(every), abs=4 * spread)
    assert {round(v, 9) for v in accuracy[:, 1]} <= {round(v, 9) for v in every}


def test_small_sizes_are_drawn_and_the_whole_layer_is_its_own_probe() -> None:
    x, y = blobs(5)
    test, truth = blobs(6, n=300)
    curve = ridge_curve(eigenbasis(x, y), test, truth)
    assert [s for k, s in zip(curve.sizes, curve.source, strict=True) if k <= 64] == [
        SUBSETS
    ] * int((curve.sizes <= 64).sum())
    assert curve.source[-1] == WHOLE
    assert set(curve.source) == {SUBSETS, LAW, WHOLE}
    assert curve.mean[-1] == curve.value_full
    assert curve.std[-1] == 0.0


def test_between_class_variance_sums_to_that_of_the_class_means() -> None:
    x, y = blobs(7)
    basis = eigenbasis(x, y)
    z = (x - basis.scaling.mean) / basis.scaling.scale
    means = np.stack([z[y == c].mean(axis=0) for c in range(N_CLASSES)])
    share = np.bincount(y) / y.size
    assert basis.between_classes.sum() == pytest.approx((share[:, None] * means**2).sum(), rel=1e-4)
    along = (share[:, None] * (means @ basis.vectors) ** 2).sum(axis=0)
    assert basis.between_classes == pytest.approx(along, abs=1e-4 * along.sum())


def test_twice_as_wide_with_the_same_spectrum(
    labelled: FeatureStore, explanation: Explanation
) -> None:
    """The wider layer's own equation: its neurons add no direction and double every eigenvalue."""
    task, curve = explanation.task, explanation.prediction.curve("ridge")
    assert task is not None
    assert curve is not None
    values = eigenbasis(labelled.features("train"), labelled.labels("train")).eigenvalues
    wide = np.concatenate([2 * values, np.zeros(WIDTH)])
    l2 = float(curve.l2[np.searchsorted(curve.sizes, task.critical_mass)])
    mu = full_penalty(values, [task.critical_mass], l2)[0]
    # The same head in the wider layer has twice the penalty, for features twice as many.
    neurons = ((wide + l2) / (wide + 2 * mu)).sum()
    assert task.critical_mass_twice_as_wide == np.ceil(neurons - 1e-6)
    share = explanation.prediction.diagonal_share
    first = [first_order_critical_mass(share / w, w * WIDTH, CKA_DELTA) for w in (1, 2)]
    assert explanation.cka_twice_as_wide == pytest.approx(first[1] / first[0])
    assert explanation.cka_twice_as_wide > 1


def test_the_interval_of_a_mass_is_where_the_band_crosses() -> None:
    sizes = np.arange(1, 11)
    curve = PredictedCurve(
        "cka", 10, 1.0, sizes, sizes / 10, np.full(10, 0.1), (LAW,) * 10, np.full(10, np.nan)
    )
    # Four seeds: half a band is 1.96 * 0.1 / 2 = 0.098, so one size either way.
    assert curve.critical_mass(0.5, 4, 0.95) == (5, 5, 6)
    assert curve.critical_mass(0.5, 1, 0.95) == (5, 4, 7)
    assert curve.critical_mass(1.0, 4, 0.95)[0] == 10
    with pytest.raises(CriticalMassError, match=r"delta=1\.5"):
        curve.critical_mass(1.5, 4, 0.95)
    with pytest.raises(CriticalMassError, match="seeds=0"):
        curve.critical_mass(0.5, 0, 0.95)


def test_without_labels_there_is_cka_alone(tmp_path: Path) -> None:
    store = import_features(blobs(1)[0], out=tmp_path / "store")
    explanation = explain(store)
    assert set(explanation.masses["measure"]) == {"cka", "cka-debiased"}
    assert explanation.task is None
    assert explanation.spectrum["between"].isna().all()
    assert explanation.spectrum["variance"].sum() == pytest.approx(1.0)
    assert "classes" not in explanation.paragraph
    _, ax = new_axes()
    assert len(spectrum(explanation.spectrum, ax).get_lines()) == 3


def test_one_class_is_no_task(tmp_path: Path) -> None:
    x, y = blobs(1)
    explanation = explain(import_features(x, labels=np.zeros_like(y), out=tmp_path / "store"))
    assert explanation.task is None
    assert set(explanation.masses["measure"]) == {"cka", "cka-debiased"}


@pytest.mark.parametrize("width", [1, 2, 9])
def test_tiny_layers(width: int, tmp_path: Path) -> None:
    x, y = blobs(1, width=width)
    explanation = explain(import_features(x, labels=y, out=tmp_path / "store"), deltas=(0.5, 1.0))
    assert (explanation.masses["critical_mass"] <= width).all()
    assert (
        explanation.masses["critical_mass_low"] <= explanation.masses["critical_mass_high"]
    ).all()
    assert explanation.paragraph


@pytest.mark.filterwarnings("ignore:.*are also training vectors")
def test_a_constant_layer_is_refused(tmp_path: Path) -> None:
    store = import_features(np.ones((40, 5), np.float32), out=tmp_path / "store")
    with pytest.raises(CriticalMassError, match="every neuron of layer 'penultimate' is constant"):
        explain(store)


def test_one_test_sample_is_refused(tmp_path: Path) -> None:
    x, y = blobs(1)
    store = import_features(x, labels=y, split=np.arange(len(y)) == 0, out=tmp_path / "store")
    with pytest.raises(StoreError, match=r"'test' of .* has 1 sample, and"):
        explain(store)


def test_mistakes_are_named(
    labelled: FeatureStore, make_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=r"deltas=\(1\.2,\)"):
        explain(labelled, deltas=(1.2,))
    with pytest.raises(CriticalMassError, match="no layer"):
        explain(labelled, layer="penultimat")
    two = make_store("two", layers={"a": 0, "b": 1})
    with pytest.raises(CriticalMassError, match="name the one to explain"):
        explain(two)
    assert explain(two, layer="b").prediction.layer == "b"
    run = cm.sweep(two, out=tmp_path / "run", measures="cka", seeds=1)
    with pytest.raises(RunError, match="was not measured on layer"):
        explain(labelled, run=run)
    splits = {"train": labelled.manifest["splits"]["train"]}
    alone = FeatureStore(labelled.path, {**labelled.manifest, "splits": splits})
    with pytest.raises(StoreError, match="no split 'test'"):
        explain(alone)


def test_a_folder_gets_tables_figures_and_the_paragraph(
    labelled: FeatureStore, explanation: Explanation, tmp_path: Path
) -> None:
    explain(labelled, out=tmp_path / "out")
    assert (tmp_path / "out" / "explanation.txt").read_text().strip() == explanation.paragraph
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"masses.csv", "spectrum.csv", "curves.csv", "spectrum.svg", "cka.svg"} <= names
    explain(labelled, out=tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("notes")
    with pytest.raises(CriticalMassError, match="not empty"):
        explain(labelled, out=tmp_path / "other")


def test_figures_refuse_missing_rows(explanation: Explanation) -> None:
    _, ax = new_axes()
    with pytest.raises(CriticalMassError, match="logistic"):
        predicted_curve(explanation.curves, ax, measure="logistic")
    with pytest.raises(CriticalMassError, match="no row"):
        spectrum(explanation.spectrum.iloc[:0], ax)


def test_wide_layers_keep_the_curve_at_fewer_sizes() -> None:
    x = blobs(1)[0].astype(np.float64)
    c = np.cov(x.T)
    whole = cka_curve(c)
    thin = cka_curve(c, most_sizes=30)
    assert thin.sizes.size <= 30
    mean, _ = thin.interpolate(whole.sizes)
    assert mean == pytest.approx(whole.mean, abs=2e-3)
