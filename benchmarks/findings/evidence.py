"""Compact tables of the results of the local studies, for docs/results.md."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from criticalmass.analysis.comparison import compare
from criticalmass.storage.run_view import RunView
from criticalmass.studies.study_run import RANDOM, StudyRun

DELTA = 0.9
LOCAL = "local"
PROBE, LAYER = "logistic", "penultimate"
_KEY = ["model", "dataset", "control"]
_DR = [
    *_KEY, "layer", "selector", "measure", "estimator", "n_neurons", "value_full",
    "critical_mass", "critical_mass_low", "critical_mass_high", "dr", "dr_low", "dr_high",
    "at_floor", "largest_failing", "smallest_passing", "n_seeds", "n_train", "n_test", "n_failed",
    "n_not_converged",
]  # fmt: skip
_DIGITS = 4
_BASES = ("critical_mass", "diffuseness", "usefulness")
#: The studies of networks that others trained, in the order of the text.
MATRYOSHKA = "matryoshka-local"
NETWORK_STUDIES = ("upstream-local", "architectures-local", MATRYOSHKA, "width-local")
#: The study of the whole data, of which transfer-local takes samples.
WHOLE = "whole-local"
_SIDES = ("a", "b")
_ENDS = ("", "_low", "_high")
StudyRuns = Mapping[str, Sequence[StudyRun]]
Tables = dict[str, pd.DataFrame]


def make_tables(folder: Path, runs: StudyRuns, title: str = LOCAL) -> Tables:
    """Make the tables that the text is written from.

    Parameters
    ----------
    folder: folder with ``studies/NAME/*.csv`` and ``steps.csv``.
    runs: name of each study -> its results on each pair.
    title: names the studies in the table of times.

    Returns
    -------
    Name -> table, with numbers rounded to 4 digits after the point. The tables of studies that did
    not run are left out.
    """
    makers: dict[str, tuple[str, Callable[..., pd.DataFrame], *tuple[str, ...]]] = {
        "transfer": ("transfer-local", _redundancy, "redundancy"),
        "layers": ("layers-local", _redundancy, "redundancy"),
        "protocol": ("protocol-local", _redundancy, "redundancy"),
        "cka": ("cka-local", _sizes, "curves"),
        "pca": ("projections-local", _axes, "selectors", "curves"),
        "selectors": ("projections-local", _selectors, "selectors", "curves"),
        "fairness": ("fairness-local", _fairness, "fairness"),
        "agreement": ("agreement-local", _agreement, "agreement"),
        "ensembles": ("agreement-local", _ensembles, "ensembles"),
        "bases": ("bases-local", _bases, "bases"),
        "curves": ("transfer-local", _curves, "curves"),
        "protocol_curves": ("protocol-local", _curves, "curves"),
    }
    tables: Tables = {}
    for name, (study, make, *files) in makers.items():
        paths = [folder / "studies" / study / f"{file}.csv" for file in files]
        if study in runs and all(path.is_file() for path in paths):
            tables[name] = make(*map(pd.read_csv, paths))
    tables |= _network_tables(folder, runs)
    if runs.get("transfer-local"):
        tables["tasks"] = _tasks(runs["transfer-local"])
        tables["controls"] = _controls(runs["transfer-local"])
        tables["datasets"] = _datasets(runs["transfer-local"])
        if runs.get(WHOLE):
            tables["whole"] = _whole(runs[WHOLE], runs["transfer-local"])
    tables["cost"] = _cost(folder / "steps.csv", runs, title)
    return {name: round_table(table) for name, table in tables.items()}


def _network_tables(folder: Path, runs: StudyRuns) -> Tables:
    """Return the tables of `NETWORK_STUDIES` together: networks, comparisons and orders."""
    makers = {"networks": ("bases", _bases), "comparisons": ("comparisons", _comparisons)}
    tables: dict[str, list[pd.DataFrame]] = {}
    for study in NETWORK_STUDIES:
        for name, (file, make) in makers.items():
            path = folder / "studies" / study / f"{file}.csv"
            if study in runs and path.is_file():
                rows = make(pd.read_csv(path))
                tables.setdefault(name, []).append(rows.assign(study=study))
    result = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    if MATRYOSHKA in runs:
        path = folder / "studies" / MATRYOSHKA
        result["orders"] = _orders(
            *(pd.read_csv(path / f"{f}.csv") for f in ("selectors", "curves"))
        )
    return result


def _comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair of networks and dataset, with all quantities at 0.9."""
    keys = ["model_spec_a", "model_spec_b", "dataset_spec", "control", "measure"]
    rows = []
    for _, part in table.groupby(keys, sort=False):
        at = part[part["delta"] == DELTA].set_index("quantity")
        dr, mass = at.loc["dr"], at.loc["critical_mass"]
        whole = part.set_index("quantity").loc["whole layer"]
        row = {name: dr[name] for name in (*keys, "dataset", "cause", "differs_in", "estimator")}
        for name, of in (("dr", dr), ("mass", mass), ("whole", whole)):
            row |= {f"{name}_{side}": of[f"value_{side}"] for side in _SIDES}
            row |= {name: of["difference"], f"{name}_low": of["low"], f"{name}_high": of["high"]}
        row |= {name: dr[name] for name in ("p", "p_holm", "n_compared")}
        row |= {"p_mass": mass["p"]}
        row["equal_bar"] = dr["equal_bar"]
        names = [f"equal_{side}{end}" for side in _SIDES for end in _ENDS]
        rows.append(row | {name: dr[name] for name in names})
    return pd.DataFrame(rows)


def _orders(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the first neurons less random ones: accuracies, and critical masses for 0.9.

    The first neurons are one subset, and a single random subset differs from the mean as well.
    ``p`` of an accuracy is the chance that a further random subset is as far from the mean of the
    measured ones, by Student's distribution; ``spread`` is their standard deviation.
    """
    is_value = (table["quantity"] == "value") | (table["delta"] == DELTA)
    rows = table[(table["selector"] == "first") & is_value & (table["quantity"] != "ratio")]
    return _beside_one_subset(rows[[*_DIFFERENCE, "quantity"]], curves)


def _beside_one_subset(rows: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Add the spread of random subsets and the p-value of one further random subset."""
    random = curves[curves["selector"] == RANDOM].rename(columns={"std": "spread"})
    rows, keys = rows.rename(columns={"n_kept_a": "n_kept"}), [*_KEY, "measure", "n_kept"]
    rows = rows.merge(random[[*keys, "spread", "n_seeds"]], on=keys, how="left", validate="m:1")
    error = rows["spread"] * np.sqrt(1 + 1 / rows["n_seeds"])
    return rows.assign(p=2 * t.sf(rows["difference"].abs() / error, rows["n_seeds"] - 1))


def round_table(table: pd.DataFrame) -> pd.DataFrame:
    """Round the floating-point columns and reset the index."""
    floats = {
        name: pd.to_numeric(table[name]).round(_DIGITS)
        for name in table.columns
        if pd.api.types.is_float_dtype(table[name])
    }
    return table.assign(**floats).reset_index(drop=True)


def _redundancy(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["delta"] == DELTA].reindex(columns=_DR)


def _bases(table: pd.DataFrame) -> pd.DataFrame:
    names = [f"{name}{end}" for name in _BASES for end in ("", "_low", "_high")]
    others = [f"critical_mass_{name}" for name in ("rotation", "pca-top", "lda-top")]
    columns = [*others, "compression", "compression_at_floor", "best_projection", "control_bar"]
    sizes = ["n_neurons", "value_full", "n_seeds", "n_train", "n_test"]
    chance = [f"critical_mass_above_chance{end}" for end in ("", "_low", "_high")]
    rows = table[table["delta"] == DELTA].sort_values(["dataset", "control"], kind="stable")
    return rows[[*_KEY, "layer", "measure", "delta", *names, *columns, *chance, *sizes]]


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


def _axes(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of principal axes minus that of random neurons, at every size."""
    is_axes = table["selector"].isin(("pca-top", "pca-bottom"))
    rows = table[(table["quantity"] == "value") & (table["measure"] == PROBE) & is_axes]
    return _beside_one_subset(rows[_DIFFERENCE], curves)


def _selectors(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Compare selectors with random neurons at 5 % of the neurons, by ridge probe and CKA."""
    selected = (table["quantity"] == "value") & (table["fraction"] == 0.05)
    rows = table[selected & table["measure"].isin(("ridge", "cka"))]
    return _beside_one_subset(rows[_DIFFERENCE], curves)


def _fairness(table: pd.DataFrame) -> pd.DataFrame:
    """Return inequality at every size; ``gini`` is the coefficient without sampling noise."""
    names = [f"{name}{end}" for name in ("gini", "gini_excess") for end in ("", "_low", "_high")]
    columns = ["measure", "fraction", "n_kept", "n_neurons", "accuracy", "accuracy_full", *names]
    corrected = {f"gini_corrected{end}": f"gini{end}" for end in ("", "_low", "_high", "_full")}
    table = table.drop(columns=["gini", "gini_full"]).rename(columns=corrected)
    return table[[*_KEY, *columns, "gini_full", "n_classes", "smallest_class", "n_test"]]


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    names = [f"{name}{end}" for name in ("kappa", "same_wrong") for end in ("", "_low", "_high")]
    return table[[*_KEY, "against", "fraction", "n_kept", "accuracy", *names, "same_wrong_chance"]]


def _ensembles(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*_KEY, "n_kept", "members", "kind", "value", "value_low", "value_high"]]


def _probe_views(runs: Sequence[StudyRun]) -> list[tuple[StudyRun, RunView]]:
    """Return views with the probe on random subsets of the last layer, one per pair."""
    return [
        (
            run,
            RunView(
                run.view.path,
                layers=(LAYER,),
                selectors=(RANDOM,),
                measures=(PROBE,),
                table=run.view.frame(),
            ),
        )
        for run in runs
    ]


def _tasks(runs: Sequence[StudyRun]) -> pd.DataFrame:
    """Return the differences of DR between datasets, one model at a time."""
    rows = [
        _difference(a, b, {"model": a.manifest["model"], "control": one.jobs[0].control})
        for (one, a), (other, b) in itertools.combinations(_probe_views(runs), 2)
        if one.jobs[0].pair.model == other.jobs[0].pair.model
    ]
    return pd.DataFrame(rows)


def _controls(runs: Sequence[StudyRun]) -> pd.DataFrame:
    """Return the differences of DR between each model and the same network untrained."""
    rows = [
        _difference(a, b, {"model": a.manifest["model"], "dataset": a.manifest["dataset"]})
        for one, a in _probe_views(runs)
        for other, b in _probe_views(runs)
        if not one.jobs[0].control and other.jobs[0].control
        if one.jobs[0].entry == other.jobs[0].entry
        if one.jobs[0].pair.dataset == other.jobs[0].pair.dataset
        if one.jobs[0].pair.task == other.jobs[0].pair.task
    ]
    return pd.DataFrame(rows)


def _whole(runs: Sequence[StudyRun], samples: Sequence[StudyRun]) -> pd.DataFrame:
    """Return, per network, what the whole data and their sample give, and the differences."""
    rows = []
    for one, a in _probe_views(runs):
        for other, b in _probe_views(samples):
            whole, sample = one.jobs[0].pair, other.jobs[0].pair
            if whole.model != sample.model or not sample.dataset.startswith(f"{whole.dataset}?n="):
                continue
            table = compare(a, b, deltas=(DELTA,))
            mass = table[table["quantity"] == "critical_mass"].to_dict("records")[0]
            names = {"model": a.manifest["model"], "dataset": a.manifest["dataset"]}
            row = _difference(a, b, names | {"control": one.jobs[0].control})
            row |= {f"mass_{side}": mass[f"value_{side}"] for side in _SIDES}
            row |= {f"mass_{end}": mass[end] for end in ("difference", "low", "high")}
            for side, view in (("a", a), ("b", b)):
                row |= {f"{n}_{side}": view.manifest[n] for n in ("n_train", "n_test")}
            rows.append(row)
    return pd.DataFrame(rows)


def _difference(a: RunView, b: RunView, columns: dict[str, Any]) -> dict[str, Any]:
    """Compare two runs; return the differences of DR and of the whole layer as one row."""
    table = compare(a, b, deltas=(DELTA,))
    dr = table[table["quantity"] == "dr"].to_dict("records")[0]
    whole = table[table["quantity"] == "whole layer"].to_dict("records")[0]
    return {
        **columns,
        "a": f"{a.manifest['model']}, {a.manifest['dataset']}",
        "b": f"{b.manifest['model']}, {b.manifest['dataset']}",
        **{name: dr[name] for name in ("value_a", "value_b", "difference", "low", "high", "bound")},
        "whole_a": whole["value_a"],
        "whole_b": whole["value_b"],
        "estimator": dr["estimator"],
        "samples": dr["samples"],
    }


def _datasets(runs: Sequence[StudyRun]) -> pd.DataFrame:
    """Return the sizes of each dataset and the accuracy of its most frequent class."""
    rows = {}
    for run in runs:
        labels, manifest = run.view.labels(), run.view.manifest
        rows[manifest["dataset"]] = {
            "dataset": manifest["dataset"],
            "n_classes": len(run.view.class_names),
            "n_train": manifest["n_train"],
            "n_test": manifest["n_test"],
            "most_frequent": float(np.bincount(labels).max() / labels.size),
        }
    return pd.DataFrame(list(rows.values()))


def _cost(path: Path, runs: StudyRuns, title: str) -> pd.DataFrame:
    """Sum the times of all feature and sweep steps and of the last tables of each study."""
    if not path.is_file():
        return pd.DataFrame(columns=["studies", "kind", "steps", "seconds", "cpu_seconds"])
    steps = pd.read_csv(path)
    last = steps[steps["step"].isin([f"tables of {name}" for name in runs])]
    work = steps[steps["kind"].isin(("features", "sweep"))]
    steps = pd.concat([work, last.drop_duplicates("step", keep="last")])
    sums = steps.groupby("kind", sort=True)[["seconds", "cpu_seconds"]].sum()
    counts = steps.groupby("kind", sort=True).size().rename("steps")
    table = pd.concat([counts, sums.round(0).astype(int)], axis=1).reset_index()
    table.insert(0, "studies", title)
    return table
