"""Figures of the side effects draw what their tables say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures import classes as figures
from criticalmass.reporting.figures.draw import new_axes
from criticalmass.reporting.figures.figure import figure
from criticalmass.storage.run import Run

LABELS = np.arange(600) % 4
SHARES = {3: (0.2, 0.6, 0.7, 0.7), 6: (0.5, 0.75, 0.8, 0.8), 12: (0.9, 0.9, 0.9, 0.9)}


@pytest.fixture
def run(make_predicted_run: Callable[..., Run]) -> Run:
    def predicted(size: int, seed: int) -> np.ndarray:
        right = np.random.default_rng(seed).random(600) < np.array(SHARES[size])[LABELS]
        return np.where(right, LABELS, (LABELS + 1) % 4)

    whole = predicted(12, 0)
    subsets = {(size, seed): predicted(size, seed) for size in (3, 6) for seed in range(2)}
    names = ("_$a", "b", "c", "d")
    return make_predicted_run(LABELS, subsets | {(12, 0): whole}, whole=whole, names=names)


def test_classes_are_named_in_the_order_of_their_losses(run: Run, tmp_path: Path) -> None:
    before = rcParams.copy()
    _, ax = new_axes()
    classes = cm.class_accuracy(run, resamples=50)
    losses = cm.class_losses(run, 0.8, resamples=50)
    assert figures.classes_against_fraction(classes, ax, losses=losses, most=2) is ax
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[0] == r"1. _\$a"
    assert len(words) == 2
    assert "80 % kept overall" in [text.get_text() for text in ax.texts]
    line = next(line for line in ax.lines if str(line.get_label()).startswith("1."))
    x, y = line.get_data()
    rows = classes[classes["class_id"] == 0].sort_values("n_kept")
    np.testing.assert_allclose(x, rows["n_kept"] / 12)
    np.testing.assert_allclose(y, rows["accuracy"] / rows["accuracy_full"])
    ax.figure.savefig(tmp_path / "drawn.png")
    assert rcParams.copy() == before


def test_gini_is_drawn_with_its_baseline(run: Run) -> None:
    _, ax = new_axes()
    table = cm.fairness(run, resamples=50)
    figures.gini_against_accuracy(table.sample(frac=1, random_state=0), ax)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(x, np.sort(table["accuracy"]))
    np.testing.assert_allclose(y, table.sort_values("accuracy")["gini_corrected"])
    baseline = next(line for line in ax.lines if "baseline" in str(line.get_label()))
    np.testing.assert_allclose(baseline.get_ydata(), table.sort_values("accuracy")["gini_neutral"])


def test_agreement_has_a_line_per_figure_and_partner(run: Run) -> None:
    _, ax = new_axes()
    table = cm.agreement(run, resamples=50)
    figures.agreement_against_fraction(table, ax)
    drawn = {str(line.get_label()): line.get_ydata() for line in ax.lines}
    assert sorted(drawn) == [
        "errors, other seeds",
        "errors, whole layer",
        "predictions, other seeds",
        "predictions, whole layer",
    ]
    whole = table[table["against"] == "whole layer"].sort_values("n_kept")
    np.testing.assert_allclose(drawn["predictions, whole layer"], whole["kappa"])


def test_nothing_and_two_curves_are_refused(run: Run) -> None:
    _, ax = new_axes()
    table = cm.fairness(run, resamples=20)
    with pytest.raises(CriticalMassError, match="no subset to draw"):
        figures.gini_against_accuracy(table.iloc[:0], ax)
    two = table.assign(model=["a", "b", "a"])
    with pytest.raises(CriticalMassError, match="one at a time"):
        figures.gini_against_accuracy(two, ax)


@pytest.mark.parametrize("name", ["classes", "gini", "agreement"])
def test_the_figure_command_draws_them(run: Run, tmp_path: Path, name: str) -> None:
    out = figure(name, run, out=tmp_path / f"{name}.svg")
    assert out.read_text().startswith("<?xml")
    with pytest.raises(CriticalMassError, match="did you mean 'logistic'"):
        figure(name, run, out=out, measures=("logistik",))
