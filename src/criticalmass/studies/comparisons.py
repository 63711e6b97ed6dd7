"""Compare the models that a study names in pairs, and say what else they differ in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.analysis.comparison import ComparisonOptions, comparison_rows, corrected_tables
from criticalmass.analysis.redundancy import redundancy
from criticalmass.storage.run_view import filter_run
from criticalmass.studies.schema import ModelComparison, Study

if TYPE_CHECKING:
    from criticalmass.studies.study_run import StudyRun

_RANDOM = "random"
_DROPPED = ["by", "model", "selector", "fraction", "n_kept_a", "n_kept_b", "sentence"]
_MASS = ("critical_mass", "critical_mass_low", "critical_mass_high")


def comparisons_table(study: Study, runs: Sequence[StudyRun]) -> pd.DataFrame:
    """Compare the two models of each comparison on every dataset, and their untrained controls.

    Returns
    -------
    Rows of `criticalmass.compare` on random subsets for DR, the critical mass and the whole layer,
    by each probe and delta, with p-values that Holm's method corrects for all rows of the table;
    ``cause`` and ``differs_in`` of the comparison; and the number of random neurons with which each
    network reaches delta times the lower of the two accuracies of the whole layers,
    ``equal_bar``, ``equal_a`` and ``equal_b``, with their intervals.
    """
    pairs = [
        (comparison, a, b)
        for comparison in study.comparisons
        for a, b in _matching_runs(comparison, runs)
        if a.probes
    ]
    options = ComparisonOptions(study.deltas, by="model")
    rows = [comparison_rows(_random(a), _random(b), options) for _, a, b in pairs]
    tables = [
        _one_table(study, comparison, (a, b), table)
        for (comparison, a, b), table in zip(pairs, corrected_tables(rows), strict=True)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def comparison_notes(study: Study) -> list[str]:
    """Return a sentence for each comparison: its cause, and what else the models differ in."""
    return [
        f"{' and '.join(one.models)} differ in {one.cause}"
        + (f", and also in {'; '.join(one.differs_in)}." if one.differs_in else ".")
        for one in study.comparisons
    ]


def _matching_runs(
    comparison: ModelComparison, runs: Sequence[StudyRun]
) -> Iterator[tuple[StudyRun, StudyRun]]:
    """Yield the runs of the first model, each with that of the second that differs in it alone."""
    first, second = comparison.models
    for a in runs:
        job = a.jobs[0]
        if job.entry.spec != first:
            continue
        key = (job.protocol, job.control, job.pair.dataset, job.pair.task)
        for b in runs:
            other = b.jobs[0]
            keys = (other.protocol, other.control, other.pair.dataset, other.pair.task)
            if other.entry.spec == second and keys == key:
                yield a, b


def _random(run: StudyRun) -> Any:
    return filter_run(run.view, selectors=(_RANDOM,), measures=run.probes)


def _one_table(
    study: Study,
    comparison: ModelComparison,
    runs: tuple[StudyRun, StudyRun],
    table: pd.DataFrame,
) -> pd.DataFrame:
    job = runs[0].jobs[0]
    keys = {
        "protocol": job.protocol.name,
        "model_spec_a": comparison.models[0],
        "model_spec_b": comparison.models[1],
        "dataset_spec": job.pair.dataset,
        "control": job.control,
    }
    rows = table[table["quantity"].isin(("dr", "critical_mass", "whole layer"))]
    rows = rows.drop(columns=_DROPPED).reset_index(drop=True)
    rows = pd.concat([pd.DataFrame(keys, index=rows.index), rows], axis=1)
    rows["cause"], rows["differs_in"] = comparison.cause, "; ".join(comparison.differs_in)
    return rows.merge(_at_equal_accuracy(study, runs, rows), on=["measure", "delta"], how="left")


def _at_equal_accuracy(
    study: Study, runs: tuple[StudyRun, StudyRun], rows: pd.DataFrame
) -> pd.DataFrame:
    """Return the numbers of neurons that reach the same accuracy, a row per probe and delta."""
    whole = rows[rows["quantity"] == "whole layer"].set_index("measure")
    lines = []
    for measure, lower in whole[["value_a", "value_b"]].min(axis=1).items():
        for delta in study.deltas:
            row = {"measure": measure, "delta": delta, "equal_bar": delta * lower}
            for name, run in zip("ab", runs, strict=True):
                view = filter_run(run.view, selectors=(_RANDOM,), measures=(str(measure),))
                table = redundancy(view, (), accuracy=row["equal_bar"])
                mass = table[table["bar_kind"] == "accuracy"].iloc[0]
                ends = zip(("", "_low", "_high"), _MASS, strict=True)
                row |= {f"equal_{name}{end}": mass[column] for end, column in ends}
            lines.append(row)
    return pd.DataFrame(lines)
