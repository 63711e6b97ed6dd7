"""The folder of a sweep: opened, checked against the features, and described in its manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.core.progress import warn_user
from criticalmass.errors import RunError
from criticalmass.measures.protocol import VALIDATION_SEED, VALIDATION_SHARE
from criticalmass.measures.registry import MEASURES, identity
from criticalmass.selectors.registry import selector_version
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run, RunWriter
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.plan import SweepCell, SweepRequest

_LIBRARIES = ("criticalmass", "numpy", "scipy", "scikit-learn", "numba", "pandas")


def missing_cells(cells: Sequence[SweepCell], table: pd.DataFrame, rerun: str) -> list[SweepCell]:
    """Return the cells to compute."""
    if rerun == "all":
        return list(cells)
    rows = table[table["status"] != "failed"] if rerun == "failed" else table
    available = set(rows["cell"])
    return [cell for cell in cells if cell.cell not in available]


def open_run(out: Path, store: FeatureStore) -> Run:
    """Open the run or create one; raise if it is of another model or dataset."""
    origin = {"model": store.model, "dataset": store.dataset}
    if not Run.exists(out):
        return Run.create(out, {**origin, "created": _now()})
    run = Run.open(out)
    recorded = {name: run.manifest.get(name, value) for name, value in origin.items()}
    if recorded != origin:
        raise RunError(
            f"{out} is a run of {recorded['model']} on {recorded['dataset']}, but the store holds "
            f"{store.model} on {store.dataset}; sweep into another folder"
        )
    return run


def drop_stale(run: Run, writer: RunWriter, store: FeatureStore, digests: Mapping[str, str]) -> int:
    """Drop rows whose features, labels, training rows or protocol have changed; -> their number.

    Rows of layers without a digest cannot be checked and stay.

    Parameters
    ----------
    run, writer: the run.
    store: the features.
    digests: layer -> digest of what its cells are computed on.
    """
    table = run.frame()
    protocols = {
        (layer, name): MEASURES[name].protocol_on(store.stored_digests(layer))
        for layer in digests
        for name in set(table["measure"]) & set(MEASURES)
    }
    stale = [
        str(row["cell"])
        for row in table.to_dict("records")
        if (row["layer"], row["measure"]) in protocols
        and row["cell"]
        != identity(
            digests[row["layer"]],
            row,
            protocols[row["layer"], row["measure"]],
            selector_version=selector_version(row["selector"]),
        )
    ]
    if stale:
        writer.drop(stale)
    return len(stale)


def describe(run: Run, writer: RunWriter, data: SweepData, request: SweepRequest) -> None:
    """Write origin, layers, protocols and versions into the manifest."""
    store = data.store
    writer.put_labels(data.y_test, store.class_names)
    old = run.manifest if len(run.frame()) else {}
    layers = {
        layer.name: {"n_neurons": layer.n_neurons, "dtype": layer.dtype, "digest": layer.digest}
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
        n_train=int(data.y_train.size),
        n_test=int(data.y_test.size),
        validation={
            "share": VALIDATION_SHARE,
            "seed": VALIDATION_SEED,
            "n_rows": int(data.validation.sum()),
        },
        versions={name: version(name) for name in _LIBRARIES},
    )


def _origin(store: FeatureStore) -> dict[str, Any]:
    """Return the entries of the store's manifest about model, dataset and engine."""
    model, dataset = store.manifest["model"], store.manifest["dataset"]
    engine = store.manifest.get("engine") or {}
    entries = {
        "model_spec": model.get("spec"),
        "weights": model.get("weights"),
        "weights_digest": model.get("weights_digest"),
        "preprocessing": model.get("preprocessing"),
        "modality": model.get("modality"),
        "dataset_spec": dataset.get("spec"),
        "dataset_digest": dataset.get("digest"),
        "inputs_digest": dataset.get("inputs_digest"),
        "dataset_notes": dataset.get("notes"),
        "engine": engine.get("name"),
        "precision": engine.get("precision"),
        "device": engine.get("device"),
        "extraction_versions": store.manifest.get("versions"),
    }
    return {name: value for name, value in entries.items() if value is not None}


def _union(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


def warn_of_failures(run: Run, cells: Collection[str]) -> None:
    """Warn if any of the cells has failed."""
    table = run.frame()
    failed = table[(table["status"] == "failed") & table["cell"].isin(cells)]
    if len(failed):
        warn_user(
            f"{len(failed)} of {len(cells)} cells failed, the first with: "
            f"{failed['error'].iloc[0]}; try them again with rerun='failed'"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
