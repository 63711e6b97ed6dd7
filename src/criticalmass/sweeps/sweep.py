"""The sweep: from a feature store to a Run, computing only what is missing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.core.arguments import checked
from criticalmass.core.backends import Backend, Local
from criticalmass.core.progress import notice
from criticalmass.errors import CriticalMassError, RunError, StoreError, unknown_name
from criticalmass.measures.logistic.training_rows import holding
from criticalmass.measures.protocol import VALIDATION_SEED, VALIDATION_SHARE
from criticalmass.measures.registry import MEASURES, identity
from criticalmass.selectors.registry import SELECTORS, selector_version
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run, RunWriter
from criticalmass.sweeps.auto_grid import is_auto, settled
from criticalmass.sweeps.backends import get_sweep_backend
from criticalmass.sweeps.cell_cache import Supply
from criticalmass.sweeps.layer_data import Workbench
from criticalmass.sweeps.memory_estimate import fitting
from criticalmass.sweeps.plan import SPLIT, Cell, Request, cells_of, make_request
from criticalmass.sweeps.predict import predict_for_run
from criticalmass.sweeps.recorder import Ledger, fill
from criticalmass.sweeps.refine import Refinement, refine_run

RERUNS = ("missing", "failed", "all")
_LIBRARIES = ("criticalmass", "numpy", "scipy", "scikit-learn", "numba", "pandas")


@checked
def sweep(
    store: FeatureStore | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    selectors: str | Sequence[str] = ("random",),
    fractions: float | str | Iterable[float] = DEFAULT_FRACTIONS,
    seeds: int | str | Iterable[int] = 5,
    measures: str | Sequence[str] = ("logistic", "cka"),
    refine: float | Sequence[float] | None = None,
    refine_level: float = 0.95,
    refine_seeds: int = 20,
    refine_cells: int = 1000,
    rerun: str = "missing",
    backend: str | Backend = "local",
    layers: str | Sequence[str] | None = None,
) -> Run:
    """Measure subsets of every size, for every seed, and the whole layer.

    Probes train on the split ``train`` and are scored on ``test``; CKA is that of the raw
    features of ``test``. Selectors look at ``train`` alone. A cell is what it would compute on
    (features, labels, subset, measure and its protocol): sweeping again into the same run
    computes what is missing, so one may add fractions, seeds, selectors or measures, or go on
    after an interruption. Rows that features changed since are dropped, with a notice.

    Parameters
    ----------
    store: a feature store or its folder.
    out: the run's folder: new, empty, or a run of the same model and dataset.
    selectors: keys of ``selectors.SELECTORS``.
    fractions: shares of the neurons to keep, in (0, 1]. "auto": as many as by default, placed
        where the predicted curves bend (`criticalmass.sweeps.auto_grid`).
    seeds: how many (0, 1, ...) or which, for the random selectors. "auto": as many as the
        predicted scatter needs for means within 2 % of the whole layer's value, from 80 % of it
        on; "auto:0.01" for 1 %.
    measures: keys of ``measures.MEASURES``.
    refine: shares of the whole layer's value, one or several, whose critical mass is searched
        for to one neuron after the grid, by halving the gap in which the mean over seeds first
        reaches the bar. A size too near the bar gets more seeds. Where they do not settle on
        which side it is, the answer is an interval; see `sweeps.bisection`, also for curves that
        are not monotone. What was found is in the manifest, and `redundancy` shows it.
    refine_level: at which a size's mean over seeds counts as above or below the bar.
    refine_seeds: most seeds that refining gives a size (a selector without chance has one).
    refine_cells: most cells that refining asks for beyond the grid, for each layer, selector,
        measure and delta. What is not settled then is told, and recorded.
    rerun: "missing": cells without a row; "failed": those and the failed ones; "all".
    backend: where jobs run: a key of `SWEEP_BACKENDS` or an object like one.
    layers: of the store; all by default.

    Raises
    ------
    CriticalMassError: for a name, fraction or seed that is none.
    StoreError: if the store has no splits ``train`` and ``test``.
    RunError: if ``out`` holds something else or another process writes to it.
    """
    refinement = None
    if refine is not None:
        refinement = Refinement.of(refine, refine_level, refine_seeds, refine_cells)
    if rerun not in RERUNS:
        raise unknown_name("rerun", rerun, RERUNS)
    place = get_sweep_backend(backend)
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else Path(store))
    _check_splits(source)
    open_to_law = is_auto(fractions), is_auto(seeds)
    request = make_request(
        source,
        layers=layers,
        selectors=selectors,
        fractions=DEFAULT_FRACTIONS if open_to_law[0] else fractions,
        seeds=1 if open_to_law[1] else seeds,
        measures=measures,
    )
    _check_classes(source, request)
    # Workers elsewhere have memory of their own.
    rows_kept = fitting(source, request) if isinstance(place, Local) else None
    request, planned = settled(request, source, Path(out), fractions, seeds)
    cells = cells_of(source, request)
    bench = Workbench.of(source)
    run = _open(Path(out), source)
    with holding(rows_kept), run.writer() as writer:
        _drop_stale(run, writer, source)
        _describe(run, writer, bench, request)
        writer.update_manifest(**({} if planned is None else {"planned": planned.record()}))
        predict_for_run(run, bench, request)
        ledger, wanted = Ledger(run, writer), _wanted(cells, run.frame(), rerun)
        fill(ledger, wanted, bench, place)
        if refinement is not None:
            supply = Supply(ledger, bench, place, rerun, {cell.cell for cell in wanted})
            cells += refine_run(supply, request, refinement)
    _tell_failures(run, {cell.cell for cell in cells})
    return run


def _wanted(cells: Sequence[Cell], table: pd.DataFrame, rerun: str) -> list[Cell]:
    """Choose the cells to compute."""
    if rerun == "all":
        return list(cells)
    rows = table[table["status"] != "failed"] if rerun == "failed" else table
    there = set(rows["cell"])
    return [cell for cell in cells if cell.cell not in there]


def _open(out: Path, store: FeatureStore) -> Run:
    """Open the run, or start one; refuse that of another model or dataset."""
    about = {"model": store.model, "dataset": store.dataset}
    if not Run.exists(out):
        return Run.create(out, {**about, "created": _now()})
    run = Run.open(out)
    known = {name: run.manifest.get(name, value) for name, value in about.items()}
    if known != about:
        raise RunError(
            f"{out} is a run of {known['model']} on {known['dataset']}, the store holds "
            f"{store.model} on {store.dataset}; sweep into another folder"
        )
    return run


def _drop_stale(run: Run, writer: RunWriter, store: FeatureStore) -> None:
    """Drop rows whose features, labels or protocol are no longer what they were computed on.

    Rows of layers that this store does not have cannot be judged and stay.
    """
    table = run.frame()
    digests = {layer: store.digest(layer) for layer in store.layers}
    protocols = {name: MEASURES[name].protocol for name in set(table["measure"]) & set(MEASURES)}
    stale = [
        str(row["cell"])
        for row in table.to_dict("records")
        if row["layer"] in digests
        and row["measure"] in protocols
        and row["cell"]
        != identity(
            digests[row["layer"]],
            row,
            protocols[row["measure"]],
            selector_version=selector_version(row["selector"]),
        )
    ]
    if stale:
        writer.drop(stale)
        notice(
            f"{run.path}: dropped {len(stale)} of {len(table)} rows, computed on features or by a "
            "protocol that have changed since"
        )


def _describe(run: Run, writer: RunWriter, bench: Workbench, request: Request) -> None:
    """Write what a reader of the run needs to know of its making."""
    store = bench.store
    writer.put_labels(bench.y_test, store.class_names)
    old = run.manifest if len(run.frame()) else {}
    layers = {
        layer: {
            "n_neurons": int(store.features(SPLIT, layer).shape[1]),
            "dtype": str(store.features(SPLIT, layer).dtype),
            "digest": store.digest(layer),
        }
        for layer in request.layers
    }
    measures = {name: MEASURES[name].protocol for name in request.measures}
    writer.update_manifest(
        **_origin(store),
        layers={**old.get("layers", {}), **layers},
        measures={**old.get("measures", {}), **measures},
        selectors=_union(old.get("selectors", ()), request.selectors),
        seeds=sorted({*old.get("seeds", ()), *request.seeds}),
        fractions=sorted({*old.get("fractions", ()), *request.fractions}),
        n_train=int(bench.y_train.size),
        n_test=int(bench.y_test.size),
        validation={
            "share": VALIDATION_SHARE,
            "seed": VALIDATION_SEED,
            "n_rows": int(bench.validation.sum()),
        },
        versions={name: version(name) for name in _LIBRARIES},
    )


def _origin(store: FeatureStore) -> dict[str, Any]:
    """Copy what the store says of model, data and the engine that computed the features."""
    model, dataset = store.manifest["model"], store.manifest["dataset"]
    engine = store.manifest.get("engine") or {}
    found = {
        "model_spec": model.get("spec"),
        "weights": model.get("weights"),
        "weights_digest": model.get("weights_digest"),
        "preprocessing": model.get("preprocessing"),
        "modality": model.get("modality"),
        "dataset_spec": dataset.get("spec"),
        "dataset_digest": dataset.get("digest"),
        "dataset_notes": dataset.get("notes"),
        "engine": engine.get("name"),
        "precision": engine.get("precision"),
        "device": engine.get("device"),
        "extraction_versions": store.manifest.get("versions"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _union(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


def _check_splits(store: FeatureStore) -> None:
    lacking = [split for split in ("train", SPLIT) if split not in store.splits]
    if lacking:
        raise StoreError(
            f"{str(store.path)!r} has the splits {', '.join(store.splits) or 'none'} but no "
            f"{' and no '.join(lacking)}; a sweep trains on 'train' and scores on 'test'"
        )


def _check_classes(store: FeatureStore, request: Request) -> None:
    probes = [name for name in request.measures if MEASURES[name].is_probe]
    if probes and len(store.class_names) < 2:
        raise CriticalMassError(
            f"{store.dataset} has {len(store.class_names)} class, but {', '.join(probes)} needs "
            "at least 2; ask for measures=('cka',)"
        )
    # Orders share a job: one that cannot choose would take the others down with it.
    choosy = [name for name in request.selectors if SELECTORS[name].needs_labels]
    if choosy and np.unique(store.labels("train")).size < 2:
        raise CriticalMassError(
            f"the training split of {store.dataset} has one class, but {', '.join(choosy)} tells "
            "classes apart; choose selectors without labels, e.g. leverage"
        )


def _tell_failures(run: Run, cells: Collection[str]) -> None:
    table = run.frame()
    failed = table[(table["status"] == "failed") & table["cell"].isin(cells)]
    if len(failed):
        notice(
            f"{len(failed)} of {len(cells)} cells failed, the first with: "
            f"{failed['error'].iloc[0]}; try them again with rerun='failed'"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
