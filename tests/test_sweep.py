"""The sweep: what its numbers are, and that it computes each of them once."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

import criticalmass as cm
from criticalmass import cells, measures, progress
from criticalmass.backends import get_backend
from criticalmass.backends.local import Local
from criticalmass.cells import Projected, validation_rows
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.measures import MEASURES, identity
from criticalmass.probes import PROBES, get_probe
from criticalmass.probes.task import ProbeScores, ProbeTask
from criticalmass.results import Run
from criticalmass.selectors import SELECTORS, select
from criticalmass.statistics import moments
from criticalmass.store import FeatureStore

FRACTIONS = (0.25, 0.5, 1.0)
MakeStore = Callable[..., FeatureStore]


@dataclasses.dataclass
class Calls:
    """What was computed: (measure, n_orders, sizes) per job."""

    jobs: list[tuple[str, int, tuple[int, ...]]]

    def take(self) -> list[tuple[str, int, tuple[int, ...]]]:
        taken, self.jobs = self.jobs, []
        return taken


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls([])

    def counting(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def probe(task: ProbeTask) -> ProbeScores:
            seen.jobs.append((name, task.n_seeds, task.sizes))
            return get_probe(name)(task)

        return probe

    def counting_cka(rows: Any, orders: Any, sizes: Any, **options: Any) -> Any:
        seen.jobs.append(("cka", len(orders), tuple(sizes)))
        return cka(rows, orders, sizes, **options)

    cka = cells.prefix_cka_replicates
    monkeypatch.setattr(cells, "get_probe", counting)
    monkeypatch.setattr(cells, "prefix_cka_replicates", counting_cka)
    return seen


def quick(store: FeatureStore, out: Path, **changes: Any) -> Run:
    asked: dict[str, Any] = {"fractions": FRACTIONS, "seeds": 2, "measures": ("centroid", "cka")}
    return cm.sweep(store, out=out, **(asked | changes))


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException, measure: str) -> None:
    """Let one probe raise, the others work."""

    def choose(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def broken(task: ProbeTask) -> ProbeScores:
            raise error

        return broken if name == measure else get_probe(name)

    monkeypatch.setattr(cells, "get_probe", choose)


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


@pytest.mark.parametrize("selector", ["pca-top", "projection-uniform"])
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
    store: FeatureStore, tmp_path: Path, calls: Calls
) -> None:
    run = quick(store, tmp_path / "run", selectors=("random", "first", "norm-high", "pca-top"))
    table = run.frame()
    for measure in ("centroid", "cka"):
        mine = table[table["measure"] == measure]
        full = mine[mine["selector"] == "full"]
        assert len(full) == 1
        assert full.iloc[0][["fraction", "n_kept", "seed"]].tolist() == [1.0, 12, 0]
        assert (mine["value_full"] == full.iloc[0]["value"]).all()
        orders = mine[(mine["n_kept"] == 12) & (mine["selector"] != "pca-top")]
        assert len(orders) == 1 + 2 + 1 + 1
        assert orders["artifact"].nunique() == 1
        assert orders["value"].nunique() == 1
    fitted_whole = [job for job in calls.jobs if job[0] == "centroid" and 12 in job[2]]
    assert len(fitted_whole) == 2  # that of the layer and that of the projection


def test_the_whole_layer_is_measured_even_where_it_was_not_asked_for(
    store: FeatureStore, tmp_path: Path
) -> None:
    table = quick(store, tmp_path / "run", selectors="pca-top", fractions=0.5).frame()
    assert set(table["selector"]) == {"full", "pca-top"}
    assert table["value_full"].notna().all()


def test_with_sgd_every_seed_has_a_whole_layer_of_its_own(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = quick(store, tmp_path / "run", measures="sgd")
    whole = run.frame().query("n_kept == 12").set_index(["selector", "seed"])
    assert len(whole) == 3
    full, first = whole.loc[("full", 0)], whole.loc[("random", 0)]
    np.testing.assert_array_equal(run.artifact(full), run.artifact(first))
    assert full["artifact"] != whole.loc[("random", 1)]["artifact"]
    assert (run.frame()["value_full"] == full["value"]).all()


def test_without_seed_0_the_whole_layer_of_sgd_is_fitted_apart(
    store: FeatureStore, tmp_path: Path, calls: Calls
) -> None:
    quick(store, tmp_path / "run", measures="sgd", seeds=(1,))
    assert calls.take() == [("sgd", 1, (12,)), ("sgd", 1, (3, 6, 12))]


def test_rows_say_what_stands_behind_them(store: FeatureStore, tmp_path: Path) -> None:
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


# --- what is computed, and what is not -----------------------------------------------------------


def test_a_second_sweep_computes_nothing(store: FeatureStore, tmp_path: Path, calls: Calls) -> None:
    first = quick(store, tmp_path / "run", selectors=("random", "pca-top")).frame()
    assert calls.take()
    second = quick(store, tmp_path / "run", selectors=("random", "pca-top")).frame()
    assert calls.jobs == []
    pd.testing.assert_frame_equal(first, second)


def test_only_what_is_new_is_computed(store: FeatureStore, tmp_path: Path, calls: Calls) -> None:
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
    assert calls.take() == [("knn", 2, (3, 6, 12))]
    quick(store, out, fractions=1.0, seeds=7)
    assert calls.take() == []
    table = Run.open(out).frame()
    whole = table.query("selector == 'random' and n_kept == 12 and measure == 'centroid'")
    assert whole["artifact"].nunique() == 1
    assert sorted(whole["seed"]) == list(range(7))


def test_seeds_that_lack_different_sizes_are_filled_up(
    store: FeatureStore, tmp_path: Path, calls: Calls
) -> None:
    quick(store, tmp_path / "run", seeds=(1,), fractions=0.25)
    calls.take()
    run = quick(store, tmp_path / "run", measures="centroid")
    assert sorted(calls.take()) == [("centroid", 1, (3, 6)), ("centroid", 1, (6,))]
    fresh = quick(store, tmp_path / "fresh", measures="centroid")
    columns = ["selector", "seed", "n_kept", "value", "value_full", "cell"]
    mine = run.frame().query("measure == 'centroid'")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, fresh.frame()[columns])


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
    store: FeatureStore, tmp_path: Path, calls: Calls
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


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    store: FeatureStore, tmp_path: Path, calls: Calls
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

    asked: dict[str, Any] = {"selectors": ("random", "first", "pca-top")}
    forwards = quick(store, tmp_path / "one", **asked)
    backwards = quick(store, tmp_path / "two", **asked, backend=Backwards())
    pd.testing.assert_frame_equal(without_time(forwards), without_time(backwards))


def test_logistic_is_written_seed_by_seed(
    store: FeatureStore, tmp_path: Path, calls: Calls
) -> None:
    quick(store, tmp_path / "run", measures="logistic", seeds=3)
    assert calls.take() == [
        ("logistic", 1, (3, 6, 12)),
        ("logistic", 1, (3, 6)),
        ("logistic", 1, (3, 6)),
    ]


def test_every_layer_is_swept_or_those_asked_for(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(layers={"early": 1, "penultimate": 2})
    some = quick(store, tmp_path / "some", layers="early").frame()
    every = quick(store, tmp_path / "some")
    assert set(some["layer"]) == {"early"}
    assert set(every.frame()["layer"]) == {"early", "penultimate"}
    assert set(every.manifest["layers"]) == {"early", "penultimate"}
    values = every.frame().query("measure == 'cka' and selector == 'random'").groupby("layer")
    assert len({tuple(rows["value"]) for _, rows in values}) == 2


# --- failure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CriticalMassError("x_train row 3 neuron 1 is nan"), "x_train row 3 neuron 1 is nan"),
        (np.linalg.LinAlgError("Singular matrix"), "LinAlgError: Singular matrix"),
        (FloatingPointError("overflow\nin exp"), "FloatingPointError: overflow in exp"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_failed_probe_becomes_rows_and_stops_no_other(
    error: BaseException, text: str, store: FeatureStore, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fail_with(monkeypatch, error, "knn")
    with pytest.warns(UserWarning, match="7 of 21 cells failed"):
        run = quick(store, tmp_path / "run", measures=("knn", "centroid", "cka"))
    table = run.frame()
    failed = table[table["measure"] == "knn"]
    assert set(failed["status"]) == {"failed"}
    assert set(failed["error"]) == {text}
    assert failed[["value", "value_full", "artifact"]].isna().all(axis=None)
    rest = table[table["measure"] != "knn"]
    assert set(rest["status"]) == {"ok"}
    assert len(rest) == 14


def test_failed_cells_are_tried_again_when_asked(
    store: FeatureStore, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_with(patch, np.linalg.LinAlgError("no"), "centroid")
        with pytest.warns(UserWarning, match="rerun='failed'"):
            quick(store, tmp_path / "run")
    calls.take()
    with pytest.warns(UserWarning, match="7 of 14 cells failed"):
        quick(store, tmp_path / "run")
    assert calls.take() == []
    run = quick(store, tmp_path / "run", rerun="failed")
    assert calls.take() == [("centroid", 2, (3, 6, 12))]
    fresh = quick(store, tmp_path / "fresh")
    pd.testing.assert_frame_equal(without_time(run), without_time(fresh))


def test_rows_learn_the_value_of_the_whole_layer_once_it_is_there(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_whole(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def probe(task: ProbeTask) -> ProbeScores:
            if 12 in task.sizes:
                raise MemoryError
            return get_probe(name)(task)

        return probe

    with monkeypatch.context() as patch:
        patch.setattr(cells, "get_probe", not_whole)
        with pytest.warns(UserWarning, match="cells failed"):
            table = quick(store, tmp_path / "run", measures="logistic").frame()
    seed_1 = table.query("seed == 1 and n_kept < 12")
    assert seed_1["value"].notna().all()
    assert table["value_full"].isna().all()
    run = quick(store, tmp_path / "run", measures="logistic", rerun="failed")
    assert (run.frame()["value_full"] == run.frame().iloc[0]["value"]).all()
    assert len(cm.redundancy(run)) == 1


def test_a_bug_is_not_recorded_as_a_failed_cell(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyError("typo"), "centroid")
    with pytest.raises(KeyError, match="typo"):
        quick(store, tmp_path / "run")
    monkeypatch.undo()
    assert len(quick(store, tmp_path / "run").frame()) == 14


# --- other data ----------------------------------------------------------------------------------


def test_changed_features_never_serve_stale_rows(make_store: MakeStore, tmp_path: Path) -> None:
    old, new = make_store("old"), make_store("new", layers={"penultimate": 5})
    before = quick(old, tmp_path / "run").frame()
    with pytest.warns(UserWarning, match="dropped 14 of 14 rows"):
        run = quick(new, tmp_path / "run", fractions=0.5)
    assert not set(run.frame()["cell"]) & set(before["cell"])
    fresh = quick(new, tmp_path / "fresh", fractions=0.5)
    pd.testing.assert_frame_equal(without_time(run), without_time(fresh))
    assert run.manifest["fractions"] == [0.5]


def test_only_the_changed_layer_is_dropped(make_store: MakeStore, tmp_path: Path) -> None:
    old = make_store("old", layers={"early": 1, "penultimate": 2})
    new = make_store("new", layers={"early": 1, "penultimate": 3})
    before = quick(old, tmp_path / "run").frame().query("layer == 'early'")
    with pytest.warns(UserWarning, match="dropped 14 of 28 rows"):
        after = quick(new, tmp_path / "run").frame().query("layer == 'early'")
    pd.testing.assert_frame_equal(before, after, check_names=False)


def test_a_changed_protocol_never_serves_stale_rows(
    store: FeatureStore, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(store, tmp_path / "run")
    calls.take()
    newer = dataclasses.replace(MEASURES["centroid"], version=99)
    for module in ("plan", "sweep"):
        room = importlib.import_module(f"criticalmass.{module}")
        monkeypatch.setattr(room, "MEASURES", {**MEASURES, "centroid": newer})
    with pytest.warns(UserWarning, match="dropped 7 of 14 rows"):
        run = quick(store, tmp_path / "run")
    assert [job[0] for job in calls.take()] == ["centroid"]
    assert run.manifest["measures"]["centroid"] == {"version": 99}


@pytest.mark.parametrize("other", [{"model": "giant"}, {"dataset": "spirals"}])
def test_a_run_of_another_model_or_dataset_is_refused(
    other: dict[str, str], make_store: MakeStore, tmp_path: Path
) -> None:
    before = quick(make_store("a"), tmp_path / "run").frame()
    with pytest.raises(RunError, match=rf"toy on blobs.*{next(iter(other.values()))}"):
        quick(make_store("b", **other), tmp_path / "run")
    pd.testing.assert_frame_equal(Run.open(tmp_path / "run").frame(), before)


@given(
    st.dictionaries(
        st.sampled_from(["model", "layer", "dataset", "split", "selector", "measure"]),
        st.text(max_size=3),
    ),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_a_cell_is_named_by_all_that_it_computes_on(
    texts: dict[str, str], seed: int, n_kept: int
) -> None:
    base = dict.fromkeys(["model", "layer", "dataset", "split", "selector", "measure"], "")
    row = {**base, **texts, "seed": seed, "n_kept": n_kept, "fraction": 0.5}
    name = identity("d", row, {"version": 1})
    assert len(name) == 24
    assert name == identity("d", dict(reversed(row.items())), {"version": 1})
    assert name == identity("d", {**row, "fraction": 0.6}, {"version": 1})
    others = [
        identity("e", row, {"version": 1}),
        identity("d", row, {"version": 2}),
        *(identity("d", {**row, key: f"{row[key]}!"}, {"version": 1}) for key in base),
        identity("d", {**row, "seed": seed + 1}, {"version": 1}),
        identity("d", {**row, "n_kept": n_kept + 1}, {"version": 1}),
    ]
    assert len({name, *others}) == 1 + len(others)


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"selectors": "radnom"}, "no selector 'radnom'; did you mean 'random'?"),
        ({"measures": ("cka", "logstic")}, "no measure 'logstic'; did you mean 'logistic'?"),
        ({"layers": "penultimat"}, "no layer 'penultimat'; did you mean 'penultimate'?"),
        ({"backend": "lokal"}, "no backend 'lokal'; did you mean 'local'?"),
        ({"rerun": "fail"}, "no rerun 'fail'; did you mean 'failed'?"),
        ({"refine": 0.9}, "refine=0.9 is not available yet"),
        ({"fractions": (0.5, 1.5)}, "fraction 1.5 is outside"),
        ({"fractions": "half"}, "fractions='half' must be numbers"),
        ({"fractions": None}, "fractions=None must be numbers"),
        ({"fractions": ()}, "no fractions given"),
        ({"seeds": 0}, "seeds=0; give at least one"),
        ({"seeds": (1, -1)}, r"seeds=\(1, -1\); give at least one"),
        ({"seeds": 2.5}, "seeds=2.5 must be how many"),
        ({"measures": ()}, "no measure given; name at least one of: logistic"),
        ({"selectors": "full"}, "no selector 'full'"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    changes: dict[str, Any], text: str, store: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=text.replace("?", r"\?")) as caught:
        quick(store, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_store_without_the_two_splits_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    splits = {"train": store.manifest["splits"]["train"]}
    lacking = FeatureStore(store.path, {**store.manifest, "splits": splits})
    with pytest.raises(StoreError, match="has the splits train but no test; a sweep trains"):
        quick(lacking, tmp_path / "run")


def test_one_class_is_enough_for_similarity_only(store: FeatureStore, tmp_path: Path) -> None:
    dataset = {**store.manifest["dataset"], "class_names": ["all"]}
    single = FeatureStore(store.path, {**store.manifest, "dataset": dataset})
    with pytest.raises(CriticalMassError, match="1 class, but centroid needs at least 2"):
        quick(single, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(RunError, match="is not empty"):
        quick(store, tmp_path)


# --- the parts -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(0, 3))
def test_validation_rows_are_a_fifth_of_every_class(labels: list[int], seed: int) -> None:
    y = np.asarray(labels, dtype=np.int64)
    marked = validation_rows(y, seed=seed)
    np.testing.assert_array_equal(marked, validation_rows(y, seed=seed))
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        held = int(marked[y == label].sum())
        assert held == (0 if count == 1 else max(1, round(0.2 * count)))
        assert held < count


def test_projected_rows_are_read_like_others() -> None:
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((7, 5)), rng.standard_normal((5, 3)).astype(np.float32)
    projected = Projected(x.astype(np.float16), p)
    whole = x.astype(np.float16).astype(np.float32) @ p
    assert (projected.shape, projected.dtype) == (whole.shape, whole.dtype)
    np.testing.assert_allclose(projected[2:5], whole[2:5], rtol=1e-6)
    np.testing.assert_allclose(projected[np.array([6, 0])], whole[[6, 0]], rtol=1e-6)


def test_the_registries_agree_and_suggest() -> None:
    assert set(PROBES) == {name for name, info in MEASURES.items() if info.is_probe}
    assert len(PROBES) == len(list(PROBES))
    assert all(callable(get_probe(name)) for name in PROBES)
    with pytest.raises(CriticalMassError, match="no probe 'rigde'; did you mean 'ridge'"):
        get_probe("rigde")
    assert isinstance(get_backend("local"), Local)
    assert set(cells._BLIND) <= set(SELECTORS)
    for info in MEASURES.values():
        json.dumps(info.protocol)
        assert info.protocol["version"] >= 1


def test_selectors_that_are_called_blind_look_at_no_feature() -> None:
    rng = np.random.default_rng(0)
    seen = moments(rng.standard_normal((40, 9)) * np.arange(1, 10))
    for name in SELECTORS:
        blank = dataclasses.replace(seen, mean=np.zeros(9), scatter=np.zeros((9, 9)))
        one, other = select(name, seen, seed=3), select(name, blank, seed=3)
        a, b = (s.projection if s.order is None else s.order for s in (one, other))
        assert a is not None
        assert b is not None
        assert np.array_equal(a, b) == (name in cells._BLIND)


def test_progress_tells_when_there_is_nothing_to_do(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.enable(True)
    try:
        quick(store, tmp_path / "run")
        assert "14 of 14 cells" in capsys.readouterr().err
        quick(store, tmp_path / "run")
        assert "every cell is there already" in capsys.readouterr().err
    finally:
        progress.enable(False)


def test_validation_share_and_seed_are_part_of_a_protocol_that_uses_them() -> None:
    for name in ("logistic", "ridge", "lda"):
        assert MEASURES[name].protocol["validation_share"] == measures.VALIDATION_SHARE
    for name in ("knn", "centroid", "sgd", "cka"):
        assert "validation_share" not in MEASURES[name].protocol
