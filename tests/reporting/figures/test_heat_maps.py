"""Heat maps, published points and parts of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from criticalmass.analysis.agreement_matrix import agreement_matrix, pairwise_kappa
from criticalmass.analysis.curves import CachedRun
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures import heat_maps
from criticalmass.reporting.figures.draw import as_pdf, new_axes
from criticalmass.reporting.figures.figure import figure
from criticalmass.reporting.figures.references import (
    ReferencePoint,
    points_for_figure,
    reference_points,
)
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import filter_run

MakeRun = Callable[..., Run]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(5, 60), st.integers(2, 4))
def test_kappa_of_pairs_is_scikit_learns(seed: int, rows: int, n_test: int, classes: int) -> None:
    predictions = np.random.default_rng(seed).integers(0, classes, (rows, n_test))
    kappa, agree = pairwise_kappa(predictions, classes)
    for i in range(rows):
        for j in range(i):
            assert agree[i, j] == pytest.approx(np.mean(predictions[i] == predictions[j]))
            if len(set(predictions[i]) | set(predictions[j])) > 1:
                expected = cohen_kappa_score(predictions[i], predictions[j])
                assert kappa[i, j] == kappa[j, i] == pytest.approx(expected)


def test_matrix_pairs_subsets_of_different_seeds(make_run: MakeRun) -> None:
    table = agreement_matrix(make_run(seeds=3))
    names = list(dict.fromkeys(table["a"]))
    assert names == ["5", "10", "20", "50", "whole layer"], "the whole layer is no size"
    pairs = table.set_index(["a", "b"])["n_pairs"]
    assert pairs["5", "10"] == pairs["5", "5"] == 6, "3 x 3 pairs without the equal seeds"
    assert pairs["5", "whole layer"] == 3
    # By hand: 1,500 and 900 of 3,000 are wrong, the wrong ones nested: 600 differ.
    agree = table.set_index(["a", "b"])["agreement"]
    assert agree["5", "10"] == pytest.approx(0.8)
    kappa = table.set_index(["a", "b"])["kappa"]
    chance = 0.5 * 0.3 + 0.5 * 0.7
    assert kappa["5", "10"] == pytest.approx((0.8 - chance) / (1 - chance))


def test_cells_of_layers_stand_where_they_belong() -> None:
    lines = pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "layer": ["late", "late", "early"],
            "selector": "random",
            "measure": "knn",
            "fraction": [0.5, 0.1, 0.1],
            "ratio": [0.9, 0.7, 0.4],
        }
    )
    names, fractions, cells = heat_maps.layer_cells(lines, measure="knn", selector="random")
    assert names == ["late", "early"], "in the order of the table"
    assert fractions == [0.1, 0.5]
    np.testing.assert_array_equal(cells, [[0.7, 0.9], [0.4, np.nan]])
    drawing, ax = new_axes()
    heat_maps.layers_by_fraction(lines, ax, measure="knn", selector="random")
    assert [text.get_text() for text in ax.texts] == ["0.70", "0.90", "0.40"]
    pdf = as_pdf(drawing)
    assert b"/FontFile2" in pdf, "TrueType, whole"
    with pytest.raises(CriticalMassError, match="no layer"):
        heat_maps.layer_cells(lines, measure="cka", selector="random")


def test_figures_of_a_part_of_a_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    wide = figure("matrix", run, out=tmp_path / "a.svg", width=6.0).read_text(encoding="utf-8")
    assert 'width="432pt"' in wide, "6 inches"
    assert figure("layers", run, out=tmp_path / "b.pdf", layers=("penultimate",)).exists()
    with pytest.raises(CriticalMassError, match="did you mean 'penultimate'"):
        figure("value", run, out=tmp_path / "c.pdf", layers=("penultimat",))
    with pytest.raises(CriticalMassError, match="width=0"):
        figure("value", run, out=tmp_path / "c.pdf", width=0.0)
    assert not (tmp_path / "c.pdf").exists()


def test_a_part_keeps_the_whole_layer_and_a_whole_part_is_the_run(make_run: MakeRun) -> None:
    run = make_run(seeds=2)
    part = filter_run(run, selectors=("random",))
    assert part is run
    view = CachedRun.of(run)
    assert view.frame() is not None
    assert len(view.frame()) == len(run.frame())
    assert set(view.frame()["selector"]) == {"full", "random"}


def test_published_points_come_from_anything(tmp_path: Path) -> None:
    row = {"source": "a", "measure": "knn", "x": 0.1, "y": 0.5, "low": None}
    table = tmp_path / "points.csv"
    pd.DataFrame([row]).to_csv(table, index=False)
    point = ReferencePoint(source="a", measure="knn", x=0.1, y=0.5)
    for given_as in ([row], pd.DataFrame([row]), table, str(table), [point]):
        assert reference_points(given_as) == (point,)
    assert reference_points(None) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x": 1.5}, r"\(1\.5, 0\.5\)"),
        ({"figure": "valeu"}, "did you mean 'value'"),
        ({"sorce": "b"}, "did you mean 'source'"),
        ({"measure": None}, "no 'measure'"),
    ],
)
def test_published_points_that_cannot_be_are_refused(
    changes: dict[str, object], expected: str
) -> None:
    row = {"source": "a", "measure": "knn", "x": 0.1, "y": 0.5} | changes
    with pytest.raises(CriticalMassError, match=expected):
        reference_points([row])


def test_published_points_stand_with_their_own_model() -> None:
    rows = pd.DataFrame({"model": ["m"], "dataset": ["d"], "measure": ["knn"]})
    points = [
        ReferencePoint("a", "knn", 0.1, 0.5),
        ReferencePoint("a", "knn", 0.1, 0.5, model="other"),
        ReferencePoint("a", "knn", 0.1, 0.5, dataset="d"),
        ReferencePoint("a", "cka", 0.1, 0.5),
        ReferencePoint("a", "knn", 0.1, 0.5, figure="dr"),
    ]
    assert points_for_figure(points, "value", rows) == [points[0], points[2]]
