"""How alike the deviations of the same random subsets are in two tasks on the same samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from criticalmass.analysis.columns import SharedSeeds
from criticalmass.core.moments import FloatArray
from criticalmass.storage.run import Run

_CURVE = ["model", "layer", "measure"]
_CELL = ["n_kept", "seed"]


def shared_seeds(a: Run, b: Run) -> tuple[tuple[SharedSeeds, ...], tuple[SharedSeeds, ...]]:
    """Describe for two runs on the same features and samples what their random subsets share.

    Returns
    -------
    For each run, one entry per layer and measure that both have: the draws of the deviations of
    the first run's subsets, and how strongly those of this run follow them.
    """
    tables = [_random_rows(run) for run in (a, b)]
    groups = [dict([*table.groupby(_CURVE, sort=True)]) for table in tables]
    first: list[SharedSeeds] = []
    second: list[SharedSeeds] = []
    for key, rows_a in groups[0].items():
        rows_b = groups[1].get(key)
        if rows_b is None:
            continue
        both = pd.concat([rows_a, rows_b])
        shared = SharedSeeds(
            layer=str(key[1]),
            measure=str(key[2]),
            dataset=str(rows_a["dataset"].iloc[0]),
            sizes=tuple(np.unique(both["n_kept"].to_numpy(np.int64)).tolist()),
            seeds=tuple(np.unique(both["seed"].to_numpy(np.int64)).tolist()),
            correlation=1.0,
        )
        cells = rows_a.merge(rows_b, on=_CELL, suffixes=("_a", "_b"))
        first.append(shared)
        second.append(replace(shared, correlation=cautious_correlation(cells)))
    return tuple(first), tuple(second)


def _random_rows(run: Run) -> pd.DataFrame:
    table = run.frame()
    return table[(table["selector"] == "random") & (table["status"] != "failed")]


def cautious_correlation(cells: pd.DataFrame) -> float:
    """Correlation of the deviations of the subsets of one size, pooled over sizes.

    A positive one is taken one standard error smaller, on Fisher's scale: too large a value would
    make intervals of differences too short. The subsets of a seed are nested, so all sizes
    together count as about two. Values that are all equal, those of a similarity, have 1.

    Parameters
    ----------
    cells: ``n_kept``, ``value_a`` and ``value_b`` of the subsets that both runs have.
    """
    pairs = [
        (x["value_a"].to_numpy(np.float64), x["value_b"].to_numpy(np.float64))
        for _, x in cells.groupby("n_kept")
        if len(x) > 1
    ]
    if not pairs:
        return 0.0
    if all(np.array_equal(*pair) for pair in pairs):
        return 1.0
    known = [_standardised(*pair) for pair in pairs if all(np.ptp(side) > 0.0 for side in pair)]
    freedom = 2 * (max(len(side) for side, _ in pairs) - 1)
    if not known or freedom <= 2:
        return 0.0
    correlation = float(np.mean([x @ y for x, y in known]))
    limit = np.arctanh(np.clip(correlation, -0.9999, 0.9999)) - 1.0 / np.sqrt(freedom - 2)
    return float(max(min(correlation, 0.0), np.tanh(limit)))


def _standardised(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the deviations from the mean, each of length 1."""
    x, y = a - a.mean(), b - b.mean()
    return x / np.linalg.norm(x), y / np.linalg.norm(y)
