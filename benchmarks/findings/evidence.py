"""What the local studies found, in tables small enough to keep beside the text about them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.analysis.comparison import compare
from criticalmass.storage.run_view import RunPart
from criticalmass.studies.tables import RANDOM, Seen

DELTA = 0.9
PROBE, LAYER = "logistic", "penultimate"
_KEY = ["model", "dataset", "control"]
_DR = [
    *_KEY, "layer", "selector", "measure", "estimator", "n_neurons", "value_full",
    "critical_mass", "critical_mass_low", "critical_mass_high", "dr", "dr_low", "dr_high",
    "at_floor", "n_seeds", "n_train", "n_test", "n_failed", "n_not_converged",
]  # fmt: skip
_DIGITS = 4
SeenBy = Mapping[str, Sequence[Seen]]
Tables = dict[str, pd.DataFrame]


def evidence(folder: Path, seen: SeenBy) -> Tables:
    """Make the tables that the findings are written from.

    Parameters
    ----------
    folder: with ``studies/NAME/*.csv`` and ``steps.csv``.
    seen: name of the study -> what it saw of each pair.

    Returns
    -------
    Name -> table, numbers rounded to 4 digits after the point. Studies that did not run leave
    theirs out.
    """
    makers = {
        "transfer": ("transfer-local", _redundancy, "redundancy"),
        "layers": ("layers-local", _redundancy, "redundancy"),
        "protocol": ("protocol-local", _redundancy, "redundancy"),
        "cka": ("cka-local", _sizes, "curves"),
        "pca": ("projections-local", _axes, "selectors"),
        "selectors": ("projections-local", _rules, "selectors"),
        "fairness": ("fairness-local", _fairness, "fairness"),
        "agreement": ("agreement-local", _agreement, "agreement"),
        "ensembles": ("agreement-local", _ensembles, "ensembles"),
        "curves": ("transfer-local", _curves, "curves"),
        "protocol_curves": ("protocol-local", _curves, "curves"),
    }
    found: Tables = {}
    for name, (study, make, file) in makers.items():
        path = folder / "studies" / study / f"{file}.csv"
        if path.is_file():
            found[name] = make(pd.read_csv(path))
    if seen.get("transfer-local"):
        found["tasks"] = _tasks(seen["transfer-local"])
        found["controls"] = _controls(seen["transfer-local"])
        found["datasets"] = _datasets(seen["transfer-local"])
    found["cost"] = _cost(folder / "steps.csv", seen)
    return {name: rounded(table) for name, table in found.items()}


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Round every number that is no count, and number the rows anew."""
    floats = {
        name: pd.to_numeric(table[name]).round(_DIGITS)
        for name in table.columns
        if pd.api.types.is_float_dtype(table[name])
    }
    return table.assign(**floats).reset_index(drop=True)


def _redundancy(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["delta"] == DELTA][_DR]


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[(table["selector"] == RANDOM) & (table["layer"] == LAYER)]
    return rows[[*_KEY, "measure", "fraction", "n_kept", "mean", "low", "high", "value_full"]]


def _sizes(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["fraction"].isin((0.05, 0.1, 0.2, 0.5))]
    return rows[[*_KEY, "measure", "fraction", "n_kept", "n_neurons", "mean", "low", "high"]]


_DIFFERENCE = [
    *_KEY, "selector", "measure", "fraction", "n_kept_a", "chosen", "random", "difference", "low",
    "high",
]  # fmt: skip


def _axes(table: pd.DataFrame) -> pd.DataFrame:
    """Principal axes against random neurons: accuracy at every size."""
    axes = table["selector"].isin(("pca-top", "pca-bottom"))
    rows = table[(table["quantity"] == "value") & (table["measure"] == PROBE) & axes]
    return rows[_DIFFERENCE].rename(columns={"n_kept_a": "n_kept"})


def _rules(table: pd.DataFrame) -> pd.DataFrame:
    """Every selector against random neurons at 5 % of the neurons, by ridge probe and CKA."""
    at = (table["quantity"] == "value") & (table["fraction"] == 0.05)
    rows = table[at & table["measure"].isin(("ridge", "cka"))]
    return rows[_DIFFERENCE].rename(columns={"n_kept_a": "n_kept"})


def _fairness(table: pd.DataFrame) -> pd.DataFrame:
    names = [f"{name}{end}" for name in ("gini", "gini_excess") for end in ("", "_low", "_high")]
    columns = ["measure", "fraction", "n_kept", "n_neurons", "accuracy", "accuracy_full", *names]
    return table[[*_KEY, *columns, "gini_full", "n_classes", "smallest_class", "n_test"]]


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    names = [f"{name}{end}" for name in ("kappa", "same_wrong") for end in ("", "_low", "_high")]
    return table[[*_KEY, "against", "fraction", "n_kept", "accuracy", *names, "same_wrong_chance"]]


def _ensembles(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*_KEY, "n_kept", "members", "kind", "value", "value_low", "value_high"]]


def _parts(seen: Sequence[Seen]) -> list[tuple[Seen, RunPart]]:
    """Keep of each pair the probe's curve of random subsets of the last layer."""
    chosen = {"layers": (LAYER,), "selectors": (RANDOM,), "measures": (PROBE,)}
    return [(one, RunPart(one.part.path, table=one.part.frame(), **chosen)) for one in seen]


def _tasks(seen: Sequence[Seen]) -> pd.DataFrame:
    """Differences of DR between datasets, one model at a time."""
    rows = [
        _difference(a, b, {"model": a.manifest["model"], "control": one.jobs[0].control})
        for (one, a), (other, b) in itertools.combinations(_parts(seen), 2)
        if one.jobs[0].pair.model == other.jobs[0].pair.model
    ]
    return pd.DataFrame(rows)


def _controls(seen: Sequence[Seen]) -> pd.DataFrame:
    """Differences of DR between each model and the same network untrained."""
    rows = [
        _difference(a, b, {"model": a.manifest["model"], "dataset": a.manifest["dataset"]})
        for one, a in _parts(seen)
        for other, b in _parts(seen)
        if not one.jobs[0].control and other.jobs[0].control
        if one.jobs[0].entry == other.jobs[0].entry
        if one.jobs[0].pair.dataset == other.jobs[0].pair.dataset
    ]
    return pd.DataFrame(rows)


def _difference(a: RunPart, b: RunPart, about: dict[str, Any]) -> dict[str, Any]:
    """Compare two runs: the rows about DR and about the whole layer, as one row."""
    table = compare(a, b, deltas=(DELTA,))
    dr = table[table["quantity"] == "dr"].to_dict("records")[0]
    whole = table[table["quantity"] == "whole layer"].to_dict("records")[0]
    return {
        **about,
        "a": f"{a.manifest['model']}, {a.manifest['dataset']}",
        "b": f"{b.manifest['model']}, {b.manifest['dataset']}",
        **{name: dr[name] for name in ("value_a", "value_b", "difference", "low", "high", "bound")},
        "whole_a": whole["value_a"],
        "whole_b": whole["value_b"],
        "estimator": dr["estimator"],
        "samples": dr["samples"],
    }


def _datasets(seen: Sequence[Seen]) -> pd.DataFrame:
    """Say of each dataset how large it is, and what always the most frequent class scores."""
    found = {}
    for one in seen:
        labels, manifest = one.part.labels(), one.part.manifest
        found[manifest["dataset"]] = {
            "dataset": manifest["dataset"],
            "n_classes": len(one.part.class_names),
            "n_train": manifest["n_train"],
            "n_test": manifest["n_test"],
            "most_frequent": float(np.bincount(labels).max() / labels.size),
        }
    return pd.DataFrame(list(found.values()))


def _cost(path: Path, seen: SeenBy) -> pd.DataFrame:
    """Add up what the steps took: all of features and sweeps, the last tables of each study."""
    if not path.is_file():
        return pd.DataFrame(columns=["kind", "steps", "seconds", "cpu_seconds"])
    steps = pd.read_csv(path)
    last = steps[steps["step"].isin([f"tables of {name}" for name in seen])]
    work = steps[steps["kind"].isin(("features", "sweep"))]
    steps = pd.concat([work, last.drop_duplicates("step", keep="last")])
    sums = steps.groupby("kind", sort=True)[["seconds", "cpu_seconds"]].sum()
    counts = steps.groupby("kind", sort=True).size().rename("steps")
    return pd.concat([counts, sums.round(0).astype(int)], axis=1).reset_index()
