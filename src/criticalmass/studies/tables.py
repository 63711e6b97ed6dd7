"""The tables of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.analysis.agreement import agreement
from criticalmass.analysis.columns import CurveKey, LayerKey
from criticalmass.analysis.comparison import ComparisonOptions, comparison_rows, corrected_tables
from criticalmass.analysis.curves import CachedRun
from criticalmass.analysis.fairness import fairness
from criticalmass.analysis.redundancy import curves, redundancy
from criticalmass.analysis.targets import CONTROL, WHOLE
from criticalmass.measures.registry import MEASURES
from criticalmass.reporting.figures.references import ReferencePoint
from criticalmass.reporting.tables import write_table
from criticalmass.storage.run_view import filter_run
from criticalmass.studies.comparisons import comparisons_table
from criticalmass.studies.grid import StudyJob
from criticalmass.studies.published import compare_with_published, published_points
from criticalmass.studies.schema import Study
from criticalmass.studies.study_run import OPTIONAL_KEYS, RANDOM, StudyRun
from criticalmass.studies.task_tables import (
    above_chance,
    fronts_table,
    groups_table,
    tasks_tables,
)
from criticalmass.sweeps.ensembles import ensembles

ENSEMBLE_SEEDS = 3


def make_tables(study: Study, runs: Sequence[StudyRun]) -> dict[str, pd.DataFrame]:
    """Make every table of a study.

    Returns
    -------
    Name of the file without suffix -> table: "curves", "redundancy", the tables that the study
    lists, "published" if there are published numbers, and "comparisons" if the study has some.
    Empty tables are left out.
    """
    makers: dict[str, Callable[[StudyRun], pd.DataFrame]] = {
        "curves": lambda run: curves(run.view),
        "redundancy": lambda run: _redundancy_table(study, run),
        "fairness": lambda run: fairness(run.view) if run.probes else pd.DataFrame(),
        "agreement": lambda run: agreement(run.view) if run.probes else pd.DataFrame(),
        "ensembles": _ensembles_table,
        "selectors": _selectors_table,
        "bases": lambda run: _bases_table(study, run, _control_of(run, runs)),
        "groups": lambda run: groups_table(run, study.deltas),
    }
    names = ("curves", "redundancy", *(name for name in study.tables if name in makers))
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in (*names, "published")}
    runs = [replace(run, view=CachedRun.of(run.view)) for run in runs]
    for run in runs:
        for name in names:
            tables[name].append(_add_key_columns(run, makers[name](run)))
        measured = tables["curves"][-1]
        tables["published"].append(_add_key_columns(run, _published_table(run, measured)))
    tables["comparisons"] = [comparisons_table(study, runs)]
    if "tasks" in study.tables:
        pairs = tasks_tables(study, runs)
        tables["tasks"] = [_add_key_columns(run, table) for run, table in pairs]
    if "groups" in study.tables:
        tables["fronts"] = [fronts_table(runs)]
    unused = [name for name in OPTIONAL_KEYS if not any(run.key_columns[name] for run in runs)]
    return {
        name: _concatenate(parts).drop(columns=unused, errors="ignore")
        for name, parts in tables.items()
        if any(map(len, parts))
    }


def collect_published_points(runs: Sequence[StudyRun]) -> list[ReferencePoint]:
    """Return the published numbers of the measured pairs, for the report."""
    points: list[ReferencePoint] = []
    for run in runs:
        job, manifest = run.jobs[0], run.view.manifest
        if not job.control:
            names = (str(manifest["model"]), str(manifest["dataset"]))
            points += published_points(job.entry.published, job.pair.dataset, names, run.probes)
    return points


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as ``NAME.csv``, atomically."""
    for name, table in tables.items():
        write_table(table, form="csv", out=folder / f"{name}.csv")


def _redundancy_table(study: Study, run: StudyRun) -> pd.DataFrame:
    estimators = study.estimators or (run.jobs[0].protocol.estimator,)
    return _concatenate([redundancy(run.view, study.deltas, name) for name in estimators])


_BASES_COLUMNS = [
    *CurveKey._fields, "delta", "estimator", "level", "n_neurons", "value_full", "critical_mass",
    "critical_mass_low", "critical_mass_high", "compression", "compression_at_floor",
    "best_projection", "diffuseness", "diffuseness_low", "diffuseness_high", "n_seeds", "n_train",
    "n_test",
]  # fmt: skip
_USEFULNESS = {
    "control": "control_model",
    "bar": "control_bar",
    "critical_mass": "usefulness",
    "critical_mass_low": "usefulness_low",
    "critical_mass_high": "usefulness_high",
    "reached": "usefulness_reached",
}


def _bases_table(study: Study, run: StudyRun, control: StudyRun | None) -> pd.DataFrame:
    """Return compression, diffuseness and, with a control, usefulness; a row per layer and delta.

    The usefulness is the number of random neurons that reach delta times the value of the
    control's whole layer; for the control itself it is its critical mass. Further columns
    are the critical masses of the other selectors, and that for delta of the accuracy above chance.
    """
    if not run.probes:
        return pd.DataFrame()
    probes = filter_run(run.view, measures=run.probes)
    whole = None if control is None else control.view
    full_table = redundancy(probes, study.deltas, control=whole)
    table = full_table[full_table["selector"] == RANDOM]
    result = table.loc[table["bar_kind"] == WHOLE, _BASES_COLUMNS].reset_index(drop=True)
    keys = [*LayerKey._fields, "delta"]
    result = result.merge(above_chance(probes, study.deltas), on=keys, how="left")
    shares = full_table[full_table["bar_kind"] == WHOLE]
    for selector, rows in shares[shares["selector"] != RANDOM].groupby("selector", sort=True):
        name = {"critical_mass": f"critical_mass_{selector}"}
        result = result.merge(rows[[*keys, *name]].rename(columns=name), on=keys, how="left")
    if whole is None:
        return result
    useful = table[table["bar_kind"] == CONTROL][[*keys, *_USEFULNESS]].rename(columns=_USEFULNESS)
    return result.merge(useful, on=keys, how="left")


def _control_of(run: StudyRun, runs: Sequence[StudyRun]) -> StudyRun | None:
    """Return the untrained control of the same model on the same dataset; of itself, itself."""
    job = run.jobs[0]
    for other in runs:
        one = other.jobs[0]
        pairs = {(pair.dataset, pair.task) for pair in (one.pair, job.pair)}
        is_same = one.entry == job.entry and len(pairs) == 1
        if one.control and is_same and one.protocol == job.protocol:
            return other
    return None


def _ensembles_table(run: StudyRun) -> pd.DataFrame:
    """Return the votes of probes on disjoint subsets, for every layer."""
    layers = list(dict.fromkeys(run.view.frame()["layer"]))
    probes = [name for name in run.probes if not MEASURES[name].is_slow][:1]
    return _concatenate(
        [
            ensembles(run.stores[layer], layer=layer, probe=probe, seeds=ENSEMBLE_SEEDS)
            for layer in layers
            for probe in probes
        ]
    )


def _selectors_table(run: StudyRun) -> pd.DataFrame:
    """Compare every selector with random subsets: DR and each size, corrected together."""
    selectors = [
        name for name in run.view.frame()["selector"].unique() if name not in ("full", RANDOM)
    ]
    by_selector = ComparisonOptions(by="selector")
    comparisons = [
        comparison_rows(filter_run(run.view, selectors=(name, RANDOM)), None, by_selector)
        for name in selectors
    ]
    return _concatenate([_selector_minus_random(t) for t in corrected_tables(comparisons)])


def _selector_minus_random(table: pd.DataFrame) -> pd.DataFrame:
    """Give every difference the sign of selector minus random, whichever was first."""
    random_first = table["a"] == RANDOM
    signed = table.assign(
        selector=table["b"].where(random_first, table["a"]),
        difference=table["difference"].where(~random_first, -table["difference"]),
        low=table["low"].where(~random_first, -table["high"]),
        high=table["high"].where(~random_first, -table["low"]),
        chosen=table["value_b"].where(random_first, table["value_a"]),
        random=table["value_a"].where(random_first, table["value_b"]),
    )
    return signed.drop(columns=["a", "b", "by", "value_a", "value_b", "sentence", "bound"])


def _published_table(run: StudyRun, measured: pd.DataFrame) -> pd.DataFrame:
    job = run.jobs[0]
    if job.control:
        return pd.DataFrame()
    rows = measured[(measured["selector"] == RANDOM) & measured["measure"].isin(run.probes)]
    return compare_with_published(job.entry.published, job.pair.dataset, rows)


def _add_key_columns(run: StudyRun, table: pd.DataFrame) -> pd.DataFrame:
    keys = {name: [value] * len(table) for name, value in run.key_columns.items()}
    return pd.concat([pd.DataFrame(keys), table], axis=1)


def _concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    nonempty = [table for table in tables if len(table)]
    return pd.concat(nonempty, ignore_index=True) if nonempty else pd.DataFrame()


def group_jobs(jobs: Sequence[StudyJob]) -> list[tuple[StudyJob, ...]]:
    """Group the jobs with the same pair and protocol, in the order of the study."""
    groups: dict[tuple[Any, str], list[StudyJob]] = {}
    for job in jobs:
        groups.setdefault((job.pair, job.protocol.name), []).append(job)
    return [tuple(group) for group in groups.values()]
