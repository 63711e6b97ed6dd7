"""The sweep: from a feature store to a Run, computing only what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.backends import Backend, get_backend
from criticalmass.cells import Outcome, Workbench, run_job
from criticalmass.errors import CriticalMassError, RunError, StoreError, unknown_name
from criticalmass.measures import (
    MEASURES,
    VALIDATION_SEED,
    VALIDATION_SHARE,
    identity,
)
from criticalmass.plan import FULL, SPLIT, Cell, Request, cells_of, jobs_of, make_request
from criticalmass.progress import notice, say, track
from criticalmass.results import Run, RunWriter
from criticalmass.selectors import DEFAULT_FRACTIONS
from criticalmass.store import FeatureStore

RERUNS = ("missing", "failed", "all")
_LIBRARIES = ("criticalmass", "numpy", "scipy", "scikit-learn", "numba", "pandas")


def sweep(  # noqa: PLR0913
    store: FeatureStore | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    selectors: str | Sequence[str] = ("random",),
    fractions: float | Iterable[float] = DEFAULT_FRACTIONS,
    seeds: int | Iterable[int] = 5,
    measures: str | Sequence[str] = ("logistic", "cka"),
    refine: float | None = None,
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
    fractions: shares of the neurons to keep, in (0, 1].
    seeds: how many (0, 1, ...) or which, for the random selectors.
    measures: keys of ``measures.MEASURES``.
    refine: not available yet; leave it None.
    rerun: "missing": cells without a row; "failed": those and the failed ones; "all".
    backend: where jobs run: a key of ``backends.BACKENDS`` or an object like one.
    layers: of the store; all by default.

    Raises
    ------
    CriticalMassError: for a name, fraction or seed that is none.
    StoreError: if the store has no splits ``train`` and ``test``.
    RunError: if ``out`` holds something else or another process writes to it.
    """
    if refine is not None:
        raise CriticalMassError(
            f"refine={refine!r} is not available yet; leave it out and ask for more fractions"
        )
    if rerun not in RERUNS:
        raise unknown_name("rerun", rerun, RERUNS)
    place = get_backend(backend)
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else Path(store))
    _check_splits(source)
    request = make_request(
        source,
        layers=layers,
        selectors=selectors,
        fractions=fractions,
        seeds=seeds,
        measures=measures,
    )
    _check_classes(source, request)
    cells = cells_of(source, request)
    bench = Workbench.of(source)
    run = _open(Path(out), source)
    with run.writer() as writer:
        _drop_stale(run, writer, source)
        _describe(run, writer, bench, request)
        _fill(_Ledger(run, writer), _wanted(cells, run.frame(), rerun), bench, place)
    _tell_failures(run, cells)
    return run


@dataclass(frozen=True)
class _Ledger:
    """The run that is being written."""

    run: Run
    writer: RunWriter

    def full_rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the row of the whole layer, for every layer and measure that has one."""
        table = self.run.frame()
        rows = table[table["selector"] == FULL].to_dict("records")
        return {(str(row["layer"]), str(row["measure"])): _plain(row) for row in rows}

    def settle(self, layer: str, measure: str, value: float | None) -> None:
        """Bring value_full of rows that stood there before up to date."""
        table = self.run.frame()
        mine = table[(table["layer"] == layer) & (table["measure"] == measure)]
        told = mine["value_full"].isna() if value is not None else mine["value_full"].notna()
        if value is not None:
            told |= (mine["value_full"] != value).fillna(True)
        rows = [{**_plain(row), "value_full": value} for row in mine[told].to_dict("records")]
        self.writer.append(rows)


def _fill(ledger: _Ledger, cells: Sequence[Cell], bench: Workbench, backend: Backend) -> None:
    """Compute cells and write them as they come."""
    label = f"sweep of {bench.store.model} on {bench.store.dataset}"
    if not cells:
        say(f"{label}: every cell is there already")
        return
    full = ledger.full_rows()
    anew = {cell.key for cell in cells if cell.selector == FULL}
    repeats: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.repeats_full:
            repeats.setdefault(cell.key, []).append(cell)
    saved: set[tuple[str, str, int]] = set()
    with track(label, total=len(cells), unit="cells") as bar:
        for key, mine in repeats.items():
            if key not in anew:
                ledger.writer.append(_repeat(full[key], mine, full[key]["artifact"]))
                bar.advance(len(mine))
        for outcome in backend.map(partial(run_job, bench), jobs_of(cells)):
            _save_orders(ledger.writer, outcome, saved)
            bar.advance(_record(ledger, outcome, full, repeats))


def _record(
    ledger: _Ledger,
    outcome: Outcome,
    full: dict[tuple[str, str], dict[str, Any]],
    repeats: Mapping[tuple[str, str], Sequence[Cell]],
) -> int:
    """Write the rows of a job and those that repeat its whole layer; return how many."""
    rows: list[dict[str, Any]] = [
        {**row, "artifact": i if outcome.artifact is not None else None}
        for i, row in enumerate(outcome.rows)
    ]
    key = (str(rows[0]["layer"]), str(rows[0]["measure"]))
    fresh = [row for row in rows if row["selector"] == FULL]
    for row in fresh:
        full[key] = row
        rows += _repeat(row, repeats.get(key, ()), row["artifact"])
    value = full[key].get("value") if key in full else None
    ledger.writer.append([{**row, "value_full": value} for row in rows], outcome.artifact)
    if fresh:
        ledger.settle(*key, value)
    return len(rows)


def _repeat(full: Mapping[str, Any], cells: Sequence[Cell], artifact: Any) -> list[dict[str, Any]]:
    """Rows of cells that are the whole layer again: its fit, at no further cost."""
    seconds = None if full["status"] == "failed" else 0.0
    return [
        {
            **full,
            **asdict(cell),
            "seconds": seconds,
            "artifact": artifact,
            "value_full": full.get("value"),
        }
        for cell in cells
    ]


def _save_orders(writer: RunWriter, outcome: Outcome, saved: set[tuple[str, str, int]]) -> None:
    """Keep the permutations of a job, each once per sweep."""
    for (selector, seed), order in outcome.orders.items():
        key = (selector, str(outcome.rows[0]["layer"]), seed)
        if key not in saved:
            writer.order(*key, order)
            saved.add(key)


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
        and row["cell"] != identity(digests[row["layer"]], row, protocols[row["measure"]])
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


def _tell_failures(run: Run, cells: Sequence[Cell]) -> None:
    table = run.frame()
    failed = table[(table["status"] == "failed") & table["cell"].isin([c.cell for c in cells])]
    if len(failed):
        notice(
            f"{len(failed)} of {len(cells)} cells failed, the first with: "
            f"{failed['error'].iloc[0]}; try them again with rerun='failed'"
        )


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of the table with None where a value is missing."""
    return {str(name): None if value is pd.NA else value for name, value in row.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
