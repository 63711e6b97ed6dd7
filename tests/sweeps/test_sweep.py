"""The sweep: its values, and that it computes each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

import criticalmass as cm
from criticalmass.core.moments import moments
from criticalmass.selectors.registry import select
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

FRACTIONS = (0.25, 0.5, 1.0)
MakeStore = Callable[..., FeatureStore]


def quick(store: FeatureStore, out: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {
        "fractions": FRACTIONS,
        "seeds": 2,
        "measures": ("centroid", "cka"),
    }
    return cm.sweep(store, out=out, **(arguments | changes))


def without_time(run: Run) -> pd.DataFrame:
    return run.frame().drop(columns="seconds")


# --- the numbers -------------------------------------------------------------------------------


def test_a_value_is_that_of_the_reference_on_the_same_columns(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = quick(store, tmp_path / "run")
    train, test = store.features("train").array(), store.features("test").array()
    for row in run.frame().query("selector == 'random'").to_dict("records"):
        kept = run.order("random", "penultimate", row["seed"])[: row["n_kept"]]
        if row["measure"] == "cka":
            assert row["value"] == pytest.approx(cm.linear_cka(test[:, kept], test), abs=1e-10)
            continue
        scaler = StandardScaler().fit(train[:, kept].astype(np.float64))
        reference = NearestCentroid().fit(scaler.transform(train[:, kept]), store.labels("train"))
        expected = reference.predict(scaler.transform(test[:, kept]))
        np.testing.assert_array_equal(run.artifact(row), expected)
        assert row["value"] == np.mean(expected == store.labels("test"))


@pytest.mark.parametrize("selector", ["pca-top", "projection-uniform", "rotation"])
def test_a_projection_is_measured_on_the_projected_rows(
    selector: str, store: FeatureStore, tmp_path: Path
) -> None:
    run = quick(store, tmp_path / "run", selectors=selector, seeds=1)
    train, test = store.features("train").array(), store.features("test").array()
    projection = select(selector, moments(train), seed=0).projection
    assert projection is not None
    rows = run.frame().query("selector == @selector").to_dict("records")
    assert len(rows) == 2 * len(FRACTIONS)
    for row in rows:
        p = projection[:, : row["n_kept"]]
        if row["measure"] == "cka":
            assert row["value"] == pytest.approx(cm.linear_cka(test @ p, test), abs=1e-9)
            continue
        scaler = StandardScaler().fit(train @ p)
        reference = NearestCentroid().fit(scaler.transform(train @ p), store.labels("train"))
        np.testing.assert_array_equal(
            run.artifact(row), reference.predict(scaler.transform(test @ p))
        )


def test_the_whole_layer_is_one_fit_that_all_orders_share(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    run = quick(store, tmp_path / "run", selectors=("random", "first", "norm-high", "pca-top"))
    table = run.frame()
    for measure in ("centroid", "cka"):
        rows = table[table["measure"] == measure]
        full = rows[rows["selector"] == "full"]
        assert len(full) == 1
        assert full.iloc[0][["fraction", "n_kept", "seed"]].tolist() == [1.0, 12, 0]
        assert (rows["value_full"] == full.iloc[0]["value"]).all()
        orders = rows[(rows["n_kept"] == 12) & (rows["selector"] != "pca-top")]
        assert len(orders) == 1 + 2 + 1 + 1
        assert orders["artifact"].nunique() == 1
        assert orders["value"].nunique() == 1
    fitted_whole = [job for job in calls.jobs if job[0] == "centroid" and 12 in job[2]]
    assert len(fitted_whole) == 2  # the layer and the projection


def test_the_whole_layer_is_always_measured(store: FeatureStore, tmp_path: Path) -> None:
    table = quick(store, tmp_path / "run", selectors="pca-top", fractions=0.5).frame()
    assert set(table["selector"]) == {"full", "pca-top"}
    assert table["value_full"].notna().all()


def test_with_sgd_every_seed_fits_its_own_whole_layer(store: FeatureStore, tmp_path: Path) -> None:
    run = quick(store, tmp_path / "run", measures="sgd")
    whole = run.frame().query("n_kept == 12").set_index(["selector", "seed"])
    assert len(whole) == 3
    full, first = whole.loc[("full", 0)], whole.loc[("random", 0)]
    np.testing.assert_array_equal(run.artifact(full), run.artifact(first))
    assert full["artifact"] != whole.loc[("random", 1)]["artifact"]
    assert (run.frame()["value_full"] == full["value"]).all()


def test_without_seed_0_the_whole_layer_of_sgd_is_fitted_separately(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    quick(store, tmp_path / "run", measures="sgd", seeds=(1,))
    assert calls.take() == [("sgd", 1, (12,)), ("sgd", 1, (3, 6, 12))]


def test_rows_have_the_columns_of_their_origin(store: FeatureStore, tmp_path: Path) -> None:
    table = quick(store, tmp_path / "run", measures=("ridge", "cka")).frame()
    assert set(table["model"]) == {"toy"}
    assert set(table["dataset"]) == {"blobs"}
    assert set(table["split"]) == {"test"}
    assert set(table["n_test"]) == {45}
    ridge, cka = table[table["measure"] == "ridge"], table[table["measure"] == "cka"]
    assert set(ridge["n_train"]) == {90}
    assert set(cka["n_train"]) == {0}
    assert ridge["l2"].notna().all()
    assert cka["l2"].isna().all()
    assert set(table["status"]) == {"ok"}
    assert table["cell"].is_unique
    assert table.query("selector == 'random'")["fraction"].unique().tolist() == list(FRACTIONS)


def test_the_manifest_holds_what_a_report_needs(store: FeatureStore, tmp_path: Path) -> None:
    quick(store, tmp_path / "run")
    manifest = quick(store, tmp_path / "run", measures="ridge", seeds=3).manifest
    assert (manifest["model"], manifest["dataset"]) == ("toy", "blobs")
    assert (manifest["engine"], manifest["precision"]) == ("torch", "float32")
    assert manifest["preprocessing"] == {"size": 8}
    assert manifest["class_names"] == ["class 0", "class 1", "class 2"]
    assert set(manifest["measures"]) == {"centroid", "cka", "ridge"}
    assert manifest["measures"]["ridge"]["validation_seed"] == 0
    assert manifest["validation"] == {"share": 0.2, "seed": 0, "n_rows": 18}
    assert (manifest["seeds"], manifest["fractions"]) == ([0, 1, 2], list(FRACTIONS))
    assert manifest["selectors"] == ["random"]
    assert (manifest["n_train"], manifest["n_test"]) == (90, 45)
    assert manifest["layers"]["penultimate"]["digest"] == store.digest()
    assert {"criticalmass", "numpy", "scikit-learn"} <= set(manifest["versions"])


# --- computing only what is missing --------------------------------------------------------------


def test_a_second_sweep_computes_nothing(store: FeatureStore, tmp_path: Path, calls: Any) -> None:
    first = quick(store, tmp_path / "run", selectors=("random", "pca-top")).frame()
    assert calls.take()
    second = quick(store, tmp_path / "run", selectors=("random", "pca-top")).frame()
    assert calls.jobs == []
    pd.testing.assert_frame_equal(first, second)


def test_only_what_is_new_is_computed(store: FeatureStore, tmp_path: Path, calls: Any) -> None:
    out = tmp_path / "run"
    quick(store, out)
    assert calls.take() == [("centroid", 2, (3, 6, 12)), ("cka", 2, (3, 6, 12))]
    quick(store, out, fractions=(*FRACTIONS, 0.75))
    assert calls.take() == [("centroid", 2, (9,)), ("cka", 2, (9,))]
    quick(store, out, fractions=(*FRACTIONS, 0.75), seeds=3)
    assert calls.take() == [("centroid", 1, (3, 6, 9)), ("cka", 1, (3, 6, 9))]
    quick(store, out, selectors=("random", "first"))
    assert calls.take() == [("centroid", 1, (3, 6)), ("cka", 1, (3, 6))]
    quick(store, out, measures=("centroid", "knn", "cka"))
    # A search of neighbours lands order by order, so that an interrupted one is kept.
    assert calls.take() == [("knn", 1, (3, 6, 12)), ("knn", 1, (3, 6))]
    quick(store, out, fractions=1.0, seeds=7)
    assert calls.take() == []
    table = Run.open(out).frame()
    whole = table.query("selector == 'random' and n_kept == 12 and measure == 'centroid'")
    assert whole["artifact"].nunique() == 1
    assert sorted(whole["seed"]) == list(range(7))


def test_missing_sizes_of_some_seeds_are_computed(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    quick(store, tmp_path / "run", seeds=(1,), fractions=0.25)
    calls.take()
    run = quick(store, tmp_path / "run", measures="centroid")
    assert sorted(calls.take()) == [("centroid", 1, (3, 6)), ("centroid", 1, (6,))]
    fresh = quick(store, tmp_path / "fresh", measures="centroid")
    columns = ["selector", "seed", "n_kept", "value", "value_full", "cell"]
    rows = run.frame().query("measure == 'centroid'")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, fresh.frame()[columns])


def test_the_order_of_arguments_does_not_matter(store: FeatureStore, tmp_path: Path) -> None:
    one = quick(
        store,
        tmp_path / "one",
        selectors=("random", "pca-top", "norm-low"),
        measures=("ridge", "cka", "knn"),
        seeds=(0, 3, 5),
    )
    other = quick(
        store,
        tmp_path / "other",
        selectors=("norm-low", "random", "pca-top", "random"),
        measures=("knn", "ridge", "cka"),
        seeds=(5, 0, 3, 0),
        fractions=(1.0, 0.25, 0.5, 0.25),
    )
    pd.testing.assert_frame_equal(without_time(one), without_time(other))
    assert one.manifest["seeds"] == other.manifest["seeds"] == [0, 3, 5]


def test_rerun_all_computes_everything_again(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    first = quick(store, tmp_path / "run")
    computed, before = calls.take(), without_time(first)
    again = quick(store, tmp_path / "run", rerun="all")
    assert calls.take() == computed
    pd.testing.assert_frame_equal(before, without_time(again))


def test_names_may_stand_alone_and_paths_for_stores(store: FeatureStore, tmp_path: Path) -> None:
    run = cm.sweep(
        str(store.path),
        out=str(tmp_path / "run"),
        selectors="first",
        fractions=0.5,
        seeds=np.int64(1),
        measures="centroid",
        layers="penultimate",
    )
    assert run.frame()["selector"].tolist() == ["first", "full"]


def test_an_interrupted_sweep_can_be_continued(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    class Interrupted:
        def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            yield function(next(iter(tasks)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(store, tmp_path / "run", backend=Interrupted())
    assert [job[0] for job in calls.take()] == ["centroid"]
    run = quick(store, tmp_path / "run")
    assert [job[0] for job in calls.take()] == ["cka"]
    assert len(run.frame()) == 14


def test_results_may_come_in_any_order(store: FeatureStore, tmp_path: Path) -> None:
    class Backwards:
        def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            return map(function, reversed(list(tasks)))

    arguments: dict[str, Any] = {"selectors": ("random", "first", "pca-top")}
    forwards = quick(store, tmp_path / "one", **arguments)
    backwards = quick(store, tmp_path / "two", **arguments, backend=Backwards())
    pd.testing.assert_frame_equal(without_time(forwards), without_time(backwards))


def test_logistic_is_written_seed_by_seed(store: FeatureStore, tmp_path: Path, calls: Any) -> None:
    quick(store, tmp_path / "run", measures="logistic", seeds=3)
    assert calls.take() == [
        ("logistic", 1, (3, 6, 12)),
        ("logistic", 1, (3, 6)),
        ("logistic", 1, (3, 6)),
    ]


def test_every_layer_is_swept_or_the_selected_ones(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(layers={"early": 1, "penultimate": 2})
    some = quick(store, tmp_path / "some", layers="early").frame()
    every = quick(store, tmp_path / "some")
    assert set(some["layer"]) == {"early"}
    assert set(every.frame()["layer"]) == {"early", "penultimate"}
    assert set(every.manifest["layers"]) == {"early", "penultimate"}
    values = every.frame().query("measure == 'cka' and selector == 'random'").groupby("layer")
    assert len({tuple(rows["value"]) for _, rows in values}) == 2
