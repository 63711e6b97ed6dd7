"""The tables and the page of a study, from what its runs hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.analysis.agreement import agreement
from criticalmass.analysis.comparison import compare
from criticalmass.analysis.curves import curves_kept
from criticalmass.analysis.fairness import fairness
from criticalmass.analysis.redundancy import curves, redundancy
from criticalmass.measures.registry import MEASURES
from criticalmass.reporting.tables import write_table
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run_view import RunPart, part_of
from criticalmass.studies import published
from criticalmass.studies.grid import Job
from criticalmass.studies.schema import Study
from criticalmass.sweeps.ensembles import ensembles

RANDOM = "random"
ENSEMBLE_SEEDS = 3


@dataclass(frozen=True, eq=False)
class Seen:
    """What a study sees of one pair under one protocol.

    Attributes
    ----------
    jobs: on that pair, of that protocol; at least one.
    part: the rows of the run that they asked for.
    stores: layer -> its features.
    """

    jobs: tuple[Job, ...]
    part: RunPart
    stores: Mapping[str, FeatureStore]

    @property
    def about(self) -> dict[str, Any]:
        """The columns that say which it is."""
        job = self.jobs[0]
        return {
            "protocol": job.part.protocol,
            "model_spec": job.pair.model,
            "dataset_spec": job.pair.dataset,
            "control": job.control,
        }

    @property
    def probes(self) -> tuple[str, ...]:
        """The measures that score by accuracy."""
        found = dict.fromkeys(name for job in self.jobs for name in job.measures)
        return tuple(name for name in found if MEASURES[name].is_probe)


def tables_of(study: Study, seen: Sequence[Seen]) -> dict[str, pd.DataFrame]:
    """Make every table of a study.

    Returns
    -------
    Name of the file without suffix -> table: "curves", "redundancy", what the study asks for
    besides, and "published" where something is.
    """
    makers: dict[str, Callable[[Seen], pd.DataFrame]] = {
        "curves": lambda one: curves(one.part),
        "redundancy": lambda one: _redundancy(study, one),
        "fairness": lambda one: fairness(one.part) if one.probes else pd.DataFrame(),
        "agreement": lambda one: agreement(one.part) if one.probes else pd.DataFrame(),
        "ensembles": _ensembles,
        "selectors": _selectors,
    }
    wanted = ("curves", "redundancy", *study.tables)
    made: dict[str, list[pd.DataFrame]] = {name: [] for name in (*wanted, "published")}
    for one in seen:
        with curves_kept():
            for name in wanted:
                made[name].append(_labelled(one, makers[name](one)))
        made["published"].append(_labelled(one, _published(one, made["curves"][-1])))
    return {name: _stacked(parts) for name, parts in made.items() if any(map(len, parts))}


def references(seen: Sequence[Seen]) -> list[Any]:
    """Collect what is published of the pairs that were measured."""
    found: list[Any] = []
    for one in seen:
        job, manifest = one.jobs[0], one.part.manifest
        if not job.control:
            names = (str(manifest["model"]), str(manifest["dataset"]))
            found += published.points(job.entry.published, job.pair.dataset, names, one.probes)
    return found


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write tables as CSV, each whole or not at all."""
    for name, table in tables.items():
        write_table(table, form="csv", out=folder / f"{name}.csv")


def _redundancy(study: Study, one: Seen) -> pd.DataFrame:
    estimators = study.estimators or (one.jobs[0].part.rules.estimator,)
    return _stacked([redundancy(one.part, study.deltas, name) for name in estimators])


def _ensembles(one: Seen) -> pd.DataFrame:
    """Let probes on disjoint subsets vote, for every layer."""
    layers = list(dict.fromkeys(one.part.frame()["layer"]))
    probes = [name for name in one.probes if name != "sgd"][:1]
    return _stacked(
        [
            ensembles(one.stores[layer], layer=layer, probe=probe, seeds=ENSEMBLE_SEEDS)
            for layer in layers
            for probe in probes
        ]
    )


def _selectors(one: Seen) -> pd.DataFrame:
    """Hold every selector against random subsets: DR and each size, with intervals."""
    names = [name for name in one.part.frame()["selector"].unique() if name not in ("full", RANDOM)]
    found = [
        compare(part_of(one.part, selectors=(name, RANDOM)), by="selector", deltas=(0.9,))
        for name in names
    ]
    return _stacked([_turned(table) for table in found])


def _turned(table: pd.DataFrame) -> pd.DataFrame:
    """Make every difference that of a selector minus random, whichever came first."""
    first = table["a"] == RANDOM
    turned = table.assign(
        selector=table["b"].where(first, table["a"]),
        difference=table["difference"].where(~first, -table["difference"]),
        low=table["low"].where(~first, -table["high"]),
        high=table["high"].where(~first, -table["low"]),
        chosen=table["value_b"].where(first, table["value_a"]),
        random=table["value_a"].where(first, table["value_b"]),
    )
    return turned.drop(columns=["a", "b", "by", "value_a", "value_b", "sentence", "bound"])


def _published(one: Seen, measured: pd.DataFrame) -> pd.DataFrame:
    job = one.jobs[0]
    if job.control:
        return pd.DataFrame()
    mine = measured[(measured["selector"] == RANDOM) & measured["measure"].isin(one.probes)]
    return published.beside(job.entry.published, job.pair.dataset, mine)


def _labelled(one: Seen, table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(
        [pd.DataFrame({k: [v] * len(table) for k, v in one.about.items()}), table], axis=1
    )


def _stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    some = [part for part in parts if len(part)]
    return pd.concat(some, ignore_index=True) if some else pd.DataFrame()


def grouped(jobs: Sequence[Job]) -> Iterator[tuple[Job, ...]]:
    """Put the jobs of one protocol on one pair together, in the order of the study."""
    groups: dict[tuple[Any, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.pair, job.part.protocol), []).append(job)
    for group in groups.values():
        yield tuple(group)
