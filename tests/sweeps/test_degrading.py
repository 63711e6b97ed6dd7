"""Neurons whose removal raises the accuracy of a trained probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

import criticalmass as cm
from criticalmass import synthetic
from criticalmass.cli.main import run_command
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import LinearHead
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.degrading import removal_effects
from criticalmass.theory.synthetic import Synthetic


def misleading(n_test: int = 3000) -> Synthetic:
    """Neuron 5 predicts the class in training, and the opposite one in the test split."""
    data = synthetic.draw(synthetic.diffuse(12, 4, noise=0.7), n_train=600, n_test=n_test)
    rng = np.random.default_rng(3)
    for x, y, sign in ((data.x_train, data.y_train, 1), (data.x_test, data.y_test, -1)):
        x[:, 5] = sign * 0.8 * (2 * y - 1) + rng.standard_normal(y.size)
    return data


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return synthetic.to_store(misleading(), tmp_path_factory.mktemp("degrading") / "features")


def test_effects_are_those_of_predictions_without_a_neuron() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 6)).astype(np.float32), rng.integers(0, 3, 50)
    head = LinearHead(
        rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal(3), np.arange(3)
    )
    mean, index = rng.standard_normal(6), np.arange(3, 47, 2)
    effects = removal_effects(head, mean, x, index, y[index])
    coef = head.coef.astype(np.float64)
    right = (x[index] @ coef.T + head.intercept).argmax(axis=1) == y[index]
    for neuron in range(6):
        removed = x[index].astype(np.float64)
        removed[:, neuron] = mean[neuron]
        other = (removed @ coef.T + head.intercept).argmax(axis=1) == y[index]
        better, worse = int((other & ~right).sum()), int((right & ~other).sum())
        assert (effects.better[neuron], effects.worse[neuron]) == (better, worse)
        if better + worse:
            expected = binomtest(better, better + worse, alternative="greater").pvalue
            assert effects.p_values[neuron] == pytest.approx(expected)
        else:
            assert effects.p_values[neuron] == 1.0


def test_a_misleading_neuron_is_found_and_no_other(features: FeatureStore) -> None:
    table = cm.degrading_neurons(features)
    assert table.loc[table["degrades"], "neuron"].tolist() == [5]
    row = table.iloc[0]
    assert row["gain"] > 0.05
    assert row["n_selection"] + row["n_test"] == 3000
    assert sorted(table["neuron"]) == list(range(12))
    assert (table["p_value"].isna() == ~table["selected"]).all()
    assert (table["q_value"].dropna() >= table["p_value"].dropna()).all()


def test_on_pure_noise_the_false_discovery_rate_holds(tmp_path: Path) -> None:
    """Labels without any relation to the features: every discovery is false."""
    false_discoveries, p_values = 0, []
    rng = np.random.default_rng(4)
    for repeat in range(40):
        draw = synthetic.draw(synthetic.diffuse(16, 4, noise=0.7), n_train=120, n_test=400)
        x_train = rng.standard_normal((120, 16)).astype(np.float32)
        x_test = rng.standard_normal((400, 16)).astype(np.float32)
        noise = Synthetic(x_train, draw.y_train, x_test, draw.y_test, draw.population)
        store = synthetic.to_store(noise, tmp_path / f"features-{repeat}")
        table = cm.degrading_neurons(store, fdr=0.1)
        false_discoveries += bool(table["degrades"].any())
        p_values.append(table["p_value"].dropna().to_numpy(float))
    # Binomial with 40 trials of probability .1: 9 or more happen once in 140 times.
    assert false_discoveries <= 8
    # The p-values of selected neurons are not too small, because they were selected elsewhere.
    assert np.mean(np.concatenate(p_values) <= 0.1) <= 0.13


def test_impossible_requests_are_refused(features: FeatureStore) -> None:
    with pytest.raises(CriticalMassError, match=r"fdr=1\.5 is outside"):
        cm.degrading_neurons(features, fdr=1.5)
    with pytest.raises(CriticalMassError, match="layer"):
        cm.degrading_neurons(features, layer="nowhere")


def test_the_command_line_names_them(
    features: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["degrading-neurons", str(features.path), "--fdr", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["5"] and "yes" in line for line in lines)
