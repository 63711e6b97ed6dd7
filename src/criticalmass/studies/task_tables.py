"""Tables about the tasks of a study: labels of one input in pairs, and tasks by group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from criticalmass.analysis.columns import CurveKey, LayerKey
from criticalmass.analysis.comparison import ComparisonOptions, comparison_rows, corrected_tables
from criticalmass.analysis.pareto import pareto
from criticalmass.analysis.redundancy import redundancy
from criticalmass.storage.run_view import filter_run
from criticalmass.studies.study_run import RANDOM

if TYPE_CHECKING:
    from criticalmass.reporting.plots import Plot
    from criticalmass.storage.run import Run
    from criticalmass.studies.schema import Study
    from criticalmass.studies.study_run import StudyRun

ENDS = ("", "_low", "_high")
WHOLE_BAR, CHANCE_BAR = "whole layer", "above chance"
_SUMMARY = ("dr", "critical_mass", "whole layer")
_GROUP_COLUMNS = [
    *CurveKey._fields, "delta", "estimator", "n_neurons", "value_full", "majority_accuracy",
    "critical_mass", "critical_mass_low", "critical_mass_high", "dr", "dr_low", "dr_high",
    "at_floor", "reached", "n_seeds", "n_train", "n_test",
]  # fmt: skip


def tasks_tables(study: Study, runs: Sequence[StudyRun]) -> list[tuple[StudyRun, pd.DataFrame]]:
    """Compare the labels of one input with each other, in pairs on the same samples and subsets.

    Of each pair there are the differences of DR, of the critical mass and of the whole layer. A
    delta is a share of the whole layer's accuracy (``bar_kind`` "whole layer"), and once more of
    its accuracy above the most frequent class ("above chance"), because labels differ in the
    number and the balance of their classes.

    Returns
    -------
    For each pair of labels the run of the first one and a table. P-values are corrected for all
    pairs of the study.
    """
    pairs = [
        (one, other)
        for one, other in itertools.combinations([run for run in runs if run.jobs[0].pair.task], 2)
        if _inputs(one) == _inputs(other)
    ]
    tables: list[tuple[StudyRun, pd.DataFrame]] = []
    for bar_kind in (WHOLE_BAR, CHANCE_BAR):
        estimators = study.estimators or (None,)
        for estimator in estimators:
            rows = [
                comparison_rows(
                    _probes(one),
                    _probes(other),
                    ComparisonOptions(
                        study.deltas,
                        estimator or one.jobs[0].protocol.estimator,
                        chance_corrected=bar_kind == CHANCE_BAR,
                    ),
                )
                for one, other in pairs
                if one.probes
            ]
            for (one, other), table in zip(pairs, corrected_tables(rows), strict=True):
                kept = table[table["quantity"].isin(_SUMMARY)]
                kept.insert(0, "task_b", other.jobs[0].pair.task)
                kept.insert(1, "bar_kind", bar_kind)
                tables.append((one, kept.reset_index(drop=True)))
    return tables


def _inputs(run: StudyRun) -> tuple[object, ...]:
    """Return what two tasks must share to be compared in pairs."""
    job = run.jobs[0]
    return job.pair.model, job.pair.dataset, job.protocol.name


def _probes(run: StudyRun) -> Run:
    return filter_run(run.view, measures=run.probes)


def above_chance(probes: Run, deltas: Sequence[float]) -> pd.DataFrame:
    """Return the critical masses for shares of the accuracy above chance, of random subsets."""
    table = redundancy(probes, deltas, chance_corrected=True)
    masses = {f"critical_mass{end}": f"critical_mass_above_chance{end}" for end in ENDS}
    table = table[table["selector"] == RANDOM]
    return table[[*LayerKey._fields, "delta", *masses]].rename(columns=masses)


def groups_table(run: StudyRun, deltas: Sequence[float]) -> pd.DataFrame:
    """Return critical mass, accuracy and redundancy of a task, a row per layer, probe and delta."""
    if not run.probes:
        return pd.DataFrame()
    probes = _probes(run)
    table = redundancy(probes, deltas)
    table = table.loc[table["selector"] == RANDOM, _GROUP_COLUMNS].reset_index(drop=True)
    keys = [*LayerKey._fields, "delta"]
    return table.merge(above_chance(probes, deltas), on=keys, how="left")


def fronts_table(runs: Sequence[StudyRun]) -> pd.DataFrame:
    """Return the Pareto fronts of all tasks: subsets that no smaller one equals in accuracy.

    On each task all models, layers and selectors of the study compete; untrained ones do not.
    """
    parts = []
    for _, group in itertools.groupby(sorted(_trained(runs), key=_task_key), key=_task_key):
        same_task = list(group)
        table = pareto([_probes(run) for run in same_task])
        front = table[table["on_front"]].drop(columns=["dominated_by", "margin", "margin_low"])
        columns = same_task[0].key_columns
        names = [name for name in columns if name not in ("model_spec", "control")]
        parts.append(front.assign(**{name: columns[name] for name in names}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def group_plots(study: Study, tables: Mapping[str, pd.DataFrame]) -> list[Plot]:
    """Return the figures of the tables "groups" and "fronts" of a study; none without them.

    They are of its first probe, and of the delta nearest to 0.9.
    """
    from criticalmass.reporting.figures.tasks import fronts_plots, mass_plot

    if "groups" not in tables:
        return []
    groups, fronts = tables["groups"], tables["fronts"]
    measure = groups["measure"].iloc[0]
    delta = min(study.deltas, key=lambda delta: abs(delta - 0.9))
    groups, fronts = (table[table["measure"] == measure] for table in (groups, fronts))
    trained = groups[~groups["control"].astype(bool)]
    return [mass_plot(groups, delta), *fronts_plots(fronts, trained, delta)]


def _trained(runs: Sequence[StudyRun]) -> Iterator[StudyRun]:
    return (run for run in runs if run.probes and not run.jobs[0].control)


def _task_key(run: StudyRun) -> tuple[str, ...]:
    job = run.jobs[0]
    return job.part.group, job.pair.dataset, job.pair.task, job.protocol.name
