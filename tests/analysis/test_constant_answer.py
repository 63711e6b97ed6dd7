"""The constant answer: its accuracy, and the test whether a probe is better."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

import criticalmass as cm
from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.reporting.tables import redundancy_view


def test_the_best_constant_answer_is_the_largest_class():
    assert ConstantAnswer.best(np.array([2, 0, 2, 1, 2])) == ConstantAnswer(2, 0.6)
    assert ConstantAnswer.best(np.array([1, 0])) == ConstantAnswer(0, 0.5)


def test_the_p_value_is_that_of_a_sign_test_on_the_samples_that_differ():
    labels = np.repeat([0, 1], [80, 20])
    correct = np.ones(100, dtype=bool)
    correct[:3] = correct[80:88] = False  # loses 3 of the large class, gains 12 of the small
    constant = ConstantAnswer.best(labels)
    want = binomtest(12, 15, 0.5, alternative="greater").pvalue
    assert constant.p_value(correct, labels) == pytest.approx(want)
    assert constant.p_value(labels == 0, labels) == 1.0
    assert constant.p_value(np.zeros(100, dtype=bool), labels) == pytest.approx(1.0)


def swept(folder, signal):
    """A run on 400 samples of which 92 % are of class 0; one neuron has the signal."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [368, 32])
    x = rng.standard_normal((400, 6))
    x[:, 0] += signal * y
    with pytest.warns(UserWarning, match="majority class"):
        store = cm.import_features(x, labels=y, out=folder / "store")
    options = {"measures": ("ridge", "cka"), "seeds": 2, "fractions": (0.5,)}
    return store, cm.sweep(store, out=folder / "run", **options)


def test_a_layer_that_knows_nothing_is_warned_of(tmp_path):
    store, run = swept(tmp_path, 0.0)
    with pytest.warns(UserWarning, match=r"class, '0', has .* 0.920, .* by ridge on penultimate"):
        table = cm.redundancy(run).set_index("measure")
    assert table["majority_accuracy"]["ridge"] == pytest.approx(0.92)
    assert table["majority_accuracy"].isna()["cka"]
    assert "majority class" in redundancy_view(table.reset_index())
    with (
        pytest.warns(UserWarning, match=r"92.0% of the samples are of class '0'"),
        pytest.warns(UserWarning, match="not significantly more accurate by ridge"),
    ):
        plan = cm.shrink(store, measure="ridge", selectors=("random",), out=tmp_path / "slim")
    assert "what is kept needs no neurons" in plan.sentence
    card = (tmp_path / "slim" / "README.md").read_text()
    assert "always answering the largest class of the test split, 0: 0.9200" in card
    assert "chance among 2 classes: 0.5000" in card


@pytest.mark.filterwarnings("ignore:.*majority class")
def test_a_layer_that_knows_the_small_class_is_not(tmp_path, recwarn):
    store, run = swept(tmp_path, 8.0)
    table = cm.redundancy(run)
    assert (table["majority_accuracy"].dropna() == 0.92).all()
    plan = cm.shrink(store, measure="ridge", selectors=("random",))
    assert "needs no neurons" not in plan.sentence
    assert plan.slim.record["measured"]["majority"]["p_value"] < 0.05
    assert not [w for w in recwarn if "significant" in str(w.message)]


def test_balanced_classes_need_no_column(tmp_path):
    y = np.arange(200) % 4
    x = np.eye(4)[y] * 6 + np.random.default_rng(0).standard_normal((200, 4))
    store = cm.import_features(x, labels=y, out=tmp_path / "store")
    run = cm.sweep(store, out=tmp_path / "run", measures="ridge", seeds=1, fractions=(0.5,))
    table = cm.redundancy(run)
    assert table["majority_accuracy"].tolist() == [0.25]
    assert "majority class" not in redundancy_view(table)
