"""How far every two groups of subsets predict the same: sizes, or selectors."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.predictions import Predictions, predictions_of
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

__all__ = ["MATRIX_COLUMNS", "agreement_matrix"]

MATRIX_COLUMNS: dict[str, str] = {
    "model": "string",
    "layer": "string",
    "dataset": "string",
    "measure": "string",
    "by": "string",
    "a": "string",
    "b": "string",
    "kappa": "Float64",
    "agreement": "Float64",
    "n_pairs": "Int64",
    "n_test": "Int64",
}
# Pairs of rows that are compared at once; of 10,000 samples they take about 10 MB.
_MOST_ROWS = 1000


def agreement_matrix(run: Run | str | os.PathLike[str], *, fraction: float = 0.1) -> pd.DataFrame:
    """Cohen's kappa of predictions, mean over pairs of subsets of different seeds.

    With one selector the groups are its sizes, with several the selectors, each at its tested
    size nearest to ``fraction``; the whole layer is a group of its own. Two subsets of one
    selector and seed are nested, so pairs of equal selector and seed are left out, except
    where a selector has one seed. Of more subsets than 1,000 in all, each group's first seeds are
    compared; ``n_pairs`` says how many that were. No interval: see
    `criticalmass.agreement` for those.

    Parameters
    ----------
    run: a run or its path; measures without predictions are left out.
    fraction: of the neurons kept, where selectors are compared; in (0, 1].

    Returns
    -------
    One row per model x layer x dataset x measure and ordered pair of groups, `MATRIX_COLUMNS`.
    ``by`` is "size" or "selector"; ``kappa``: (agreement - chance) / (1 - chance), chance from
    the class shares of both (Cohen 1960), missing where a group has no pair with another seed.

    Raises
    ------
    CriticalMassError: for a fraction out of range, or a run without predictions.
    """
    if not 0.0 < fraction <= 1.0:
        raise CriticalMassError(f"fraction={fraction} is outside (0, 1]; 0.1 keeps a tenth")
    rows = [row for source in predictions_of(Run.open(run)) for row in _rows(source, fraction)]
    return pd.DataFrame(
        {n: pd.array([row[n] for row in rows], dtype=t) for n, t in MATRIX_COLUMNS.items()}
    )


def pairwise_kappa(
    classes: npt.NDArray[np.integer], n_classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Kappa and raw agreement of every two rows of predictions.

    Parameters
    ----------
    classes: (n_rows, n_test) predicted class ids.
    n_classes: number of classes.

    Returns
    -------
    kappa, agreement: (n_rows, n_rows) each; kappa is 1 where both always say the same class.
    """
    n_rows, n_test = classes.shape
    shares = np.stack([np.bincount(row, minlength=n_classes) for row in classes]) / n_test
    agree = np.eye(n_rows)
    for i in range(n_rows):
        agree[i, i:] = agree[i:, i] = (classes[i:] == classes[i]).mean(axis=1)
    chance = shares @ shares.T
    room = 1.0 - chance
    kappa = np.divide(agree - chance, room, out=np.ones_like(agree), where=room > 1e-12)
    return kappa, agree


def _rows(source: Predictions, fraction: float) -> list[dict[str, Any]]:
    """Rows of one layer and measure."""
    by, groups = _groups(source, fraction)
    each = max(2, _MOST_ROWS // len(groups))
    groups = {name: members[:each] for name, members in groups.items()}
    used = np.unique([row for members in groups.values() for row, _ in members])
    place = {int(row): at for at, row in enumerate(used)}
    kappa, agree = pairwise_kappa(source.classes[used], len(source.names))
    model, layer, dataset, measure = source.key
    found = []
    for a, first in groups.items():
        for b, second in groups.items():
            pairs = _pairs(first, second, a == b)
            at = tuple(np.array([place[row] for row in side]) for side in zip(*pairs, strict=True))
            found.append(
                {
                    "model": model,
                    "layer": layer,
                    "dataset": dataset,
                    "measure": measure,
                    "by": by,
                    "a": a,
                    "b": b,
                    "kappa": float(kappa[at].mean()) if pairs else None,
                    "agreement": float(agree[at].mean()) if pairs else None,
                    "n_pairs": len(pairs),
                    "n_test": source.labels.size,
                }
            )
    return found


_Member = tuple[int, str]


def _groups(source: Predictions, fraction: float) -> tuple[str, dict[str, list[_Member]]]:
    """Name -> members (row of predictions, order it is a prefix of), and what the names are."""
    groups: dict[str, list[_Member]] = {}
    single = len(source.lines) == 1
    for line in source.lines:
        whole = int(line.rows["n_neurons"].max())
        near = int(np.argmin(np.abs(line.sizes / whole - fraction)))
        for at, size in enumerate(line.sizes):
            if (size == whole) if single else (at != near):
                continue
            members = [
                (int(row), f"{line.selector}/{seed}")
                for row, seed in zip(line.columns[at], line.seeds, strict=True)
                if row >= 0
            ]
            groups[f"{size:,}" if single else line.selector] = members
    if source.whole is not None:
        groups["whole layer"] = [(int(source.whole), "")]
    return ("size" if single else "selector"), groups


def _pairs(first: list[_Member], second: list[_Member], same: bool) -> list[tuple[int, int]]:
    """Pairs of rows; prefixes of one order are no two choices, unless there is no other."""
    if same and len(first) == 1:
        return [(first[0][0], first[0][0])]
    apart = [(i, j) for i, order in first for j, other in second if order != other]
    return apart or [(i, j) for i, _ in first for j, _ in second]
