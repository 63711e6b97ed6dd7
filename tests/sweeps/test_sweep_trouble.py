"""Failed cells, changed data and invalid arguments of a sweep."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.core.progress import display
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.registry import MEASURES, get_probe, get_similarity, identity
from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask
from criticalmass.selectors import registry
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import jobs

FRACTIONS = (0.25, 0.5, 1.0)
MakeStore = Callable[..., FeatureStore]


def quick(store: FeatureStore, out: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {
        "fractions": FRACTIONS,
        "seeds": 2,
        "measures": ("centroid", "cka"),
    }
    return cm.sweep(store, out=out, **(arguments | changes))


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException, measure: str) -> None:
    """Let one probe raise; the others work."""

    def choose(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def broken(task: ProbeTask) -> ProbeScores:
            raise error

        return broken if name == measure else get_probe(name)

    monkeypatch.setattr(jobs, "get_probe", choose)


def without_time(run: Run) -> pd.DataFrame:
    return run.frame().drop(columns="seconds")


# --- interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["retrieval", "retrieval-recall", "mutual-knn", "knn"])
def test_finished_orders_of_an_interrupted_sweep_are_in_the_run(
    make_store: MakeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measure: str,
) -> None:
    """Interrupted in the third of three orders: the cells of two are there, and stay."""
    store = make_store("features")
    calls: list[str] = []

    def run_two(data: Any, job: Any) -> jobs.JobResult:
        calls.append(job.measure)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return jobs.run_job(data, job)

    module = importlib.import_module("criticalmass.sweeps.sweep")
    monkeypatch.setattr(module, "run_job", run_two)
    options: dict[str, Any] = {"measures": (measure,), "seeds": 3, "fractions": (0.25, 0.5)}
    with display(), pytest.raises(KeyboardInterrupt):
        cm.sweep(store, out=tmp_path / "run", **options)
    # The whole layer and two sizes of two orders.
    assert len(Run.open(tmp_path / "run").frame()) == 5
    assert f"5 of these 7 cells are in {tmp_path / 'run'}" in capsys.readouterr().err
    run = cm.sweep(store, out=tmp_path / "run", **options)
    assert len(calls) == 4, "one order was left"
    whole = cm.sweep(store, out=tmp_path / "other", **options)
    pd.testing.assert_frame_equal(
        without_time(run).drop(columns="artifact"), without_time(whole).drop(columns="artifact")
    )


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


@pytest.mark.parametrize("broken", ["values", "bootstrap_values"])
def test_a_similarity_that_is_not_finite_is_a_failed_cell(
    broken: str, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(name: str) -> Callable[[SimilarityTask], SimilarityScores]:
        def similarity(task: SimilarityTask) -> SimilarityScores:
            scores = get_similarity(name)(task)
            if name == "procrustes" and task.sizes[0] == 3:
                getattr(scores, broken)[0, 0] = np.nan
            return scores

        return similarity

    expected = quick(store, tmp_path / "whole", measures=("procrustes", "cka")).frame()
    monkeypatch.setattr(jobs, "get_similarity", choose)
    with pytest.warns(UserWarning, match="2 of 14 cells failed"):
        run = quick(store, tmp_path / "run", measures=("procrustes", "cka"))
    table = run.frame()
    failed = table[table["status"] == "failed"]
    assert failed[["measure", "n_kept", "seed"]].to_numpy().tolist() == [
        ["procrustes", 3, 0],
        ["procrustes", 3, 1],
    ]
    assert "procrustes are NaN or infinite; rescale" in failed["error"].iloc[0]
    assert failed[["value", "artifact"]].isna().all(axis=None)
    rest = table[table["status"] == "ok"]
    for row in rest.to_dict("records"):
        same = expected[expected["cell"] == row["cell"]].iloc[0]
        assert row["value"] == same["value"]
        np.testing.assert_array_equal(
            run.artifact(row), Run.open(tmp_path / "whole").artifact(same)
        )


def test_failed_cells_are_computed_again_on_request(
    store: FeatureStore, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
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


def test_rows_get_the_value_of_the_whole_layer_later(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_whole(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def probe(task: ProbeTask) -> ProbeScores:
            if 12 in task.sizes:
                raise MemoryError
            return get_probe(name)(task)

        return probe

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "get_probe", not_whole)
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
    store: FeatureStore, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(store, tmp_path / "run")
    calls.take()
    newer = dataclasses.replace(MEASURES["centroid"], version=99)
    for module in ("plan", "run_folder"):
        target = importlib.import_module(f"criticalmass.sweeps.{module}")
        monkeypatch.setattr(target, "MEASURES", {**MEASURES, "centroid": newer})
    with pytest.warns(UserWarning, match="dropped 7 of 14 rows"):
        run = quick(store, tmp_path / "run")
    assert [job[0] for job in calls.take()] == ["centroid"]
    assert run.manifest["measures"]["centroid"] == {"version": 99}


def test_a_changed_selector_never_serves_stale_rows(
    store: FeatureStore, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_full = len(quick(store, tmp_path / "run").frame().query("selector == 'full'"))
    calls.take()
    newer = dataclasses.replace(registry.SELECTORS["random"], version=99)
    monkeypatch.setattr(registry, "SELECTORS", {**registry.SELECTORS, "random": newer})
    with pytest.warns(UserWarning, match=f"dropped {14 - n_full} of 14 rows"):
        quick(store, tmp_path / "run")
    assert calls.take()


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
def test_the_identity_of_a_cell_covers_all_that_it_depends_on(
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


# --- invalid arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"selectors": "radnom"}, "no selector 'radnom'; did you mean 'random'?"),
        ({"measures": ("cka", "logstic")}, "no measure 'logstic'; did you mean 'logistic'?"),
        ({"layers": "penultimat"}, "no layer 'penultimat'; did you mean 'penultimate'?"),
        ({"backend": "lokal"}, "no backend 'lokal'; did you mean 'local'?"),
        ({"rerun": "fail"}, "no rerun 'fail'; did you mean 'failed'?"),
        ({"refine": 1.5}, "delta=1.5 is outside"),
        ({"fractions": (0.5, 1.5)}, "fraction 1.5 is outside"),
        ({"fractions": "half"}, "fractions='half' must be numbers"),
        ({"fractions": None}, "fractions=None must be numbers"),
        ({"fractions": ()}, "no fractions given"),
        ({"seeds": 0}, "seeds=0; give at least one"),
        ({"seeds": (1, -1)}, r"seeds=\(1, -1\); give at least one"),
        ({"seeds": 2.5}, "seeds=2.5 must be a number of seeds"),
        ({"measures": ()}, "no measure given; name at least one of: logistic"),
        ({"selectors": "full"}, "no selector 'full'"),
    ],
)
def test_invalid_arguments_raise_in_one_line_and_write_nothing(
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
