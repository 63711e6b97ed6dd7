"""Agreement of predictions between every two sizes or every two selectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import (
    COUNT,
    FLOAT,
    LAYER_KEY_COLUMNS,
    TEXT,
    RunLike,
    typed_table,
)
from criticalmass.analysis.predictions import Predictions, predictions_of
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

__all__ = ["MATRIX_COLUMNS", "agreement_matrix"]

MATRIX_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | dict.fromkeys(("by", "a", "b"), TEXT)
    | dict.fromkeys(("kappa", "agreement"), FLOAT)
    | dict.fromkeys(("n_pairs", "n_test"), COUNT)
)


def agreement_matrix(run: RunLike, *, fraction: float = 0.1, max_rows: int = 1000) -> pd.DataFrame:
    """Compute Cohen's kappa of predictions, averaged over pairs of subsets of different seeds.

    With one selector the groups are its sizes. With several the groups are the selectors, each at
    its tested size nearest to ``fraction``. The whole layer is a group of its own. Two subsets of
    one selector and seed are nested, so such pairs are left out, unless the selector has one
    seed. There are no intervals; `criticalmass.agreement` has them.

    Parameters
    ----------
    run: a run or its path; measures without predictions are left out.
    fraction: share of neurons kept at which selectors are compared, in (0, 1].
    max_rows: largest number of subsets that are compared. If there are more, each group uses its
        first seeds; ``n_pairs`` tells how many. With 10,000 test samples 1,000 rows take about
        10 MB.

    Returns
    -------
    One row per model x layer x dataset x measure and ordered pair of groups, `MATRIX_COLUMNS`.
    ``by`` is "size" or "selector"; ``kappa``: (agreement - chance) / (1 - chance), where chance
    follows from the class shares of both (Cohen 1960). It is missing if two groups have no pair.

    Raises
    ------
    CriticalMassError: if fraction is out of range, or the run has no predictions.
    """
    if not 0.0 < fraction <= 1.0:
        raise CriticalMassError(f"fraction={fraction} is outside (0, 1]; 0.1 keeps a tenth")
    rows = [
        row
        for source in predictions_of(Run.open(run))
        for row in _layer_rows(source, fraction, max_rows)
    ]
    return typed_table(rows, MATRIX_COLUMNS)


def pairwise_kappa(
    classes: npt.NDArray[np.integer], n_classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute kappa and raw agreement of every two rows of predictions.

    Parameters
    ----------
    classes: (n_rows, n_test) predicted class ids.
    n_classes: number of classes.

    Returns
    -------
    kappa, agreement: (n_rows, n_rows) each; kappa is 1 if both rows predict the same single class.
    """
    n_rows, n_test = classes.shape
    shares = np.stack([np.bincount(row, minlength=n_classes) for row in classes]) / n_test
    agree = np.eye(n_rows)
    for i in range(n_rows):
        agree[i, i:] = agree[i:, i] = (classes[i:] == classes[i]).mean(axis=1)
    chance = shares @ shares.T
    beyond_chance = 1.0 - chance
    kappa = np.divide(
        agree - chance, beyond_chance, out=np.ones_like(agree), where=beyond_chance > 1e-12
    )
    return kappa, agree


def _layer_rows(source: Predictions, fraction: float, max_rows: int) -> list[dict[str, Any]]:
    """Rows of one layer and measure."""
    by, groups = _groups(source, fraction)
    group_size = max(2, max_rows // len(groups))
    groups = {name: members[:group_size] for name, members in groups.items()}
    used = np.unique([row for members in groups.values() for row, _ in members])
    position = {int(row): i for i, row in enumerate(used)}
    kappa, agree = pairwise_kappa(source.classes[used], len(source.class_names))
    table = []
    for a, first in groups.items():
        for b, second in groups.items():
            pairs = _pairs(first, second, a == b)
            index = tuple(
                np.array([position[row] for row in side]) for side in zip(*pairs, strict=True)
            )
            table.append(
                source.key._asdict()
                | {
                    "by": by,
                    "a": a,
                    "b": b,
                    "kappa": float(kappa[index].mean()) if pairs else None,
                    "agreement": float(agree[index].mean()) if pairs else None,
                    "n_pairs": len(pairs),
                    "n_test": source.labels.size,
                }
            )
    return table


# A row of predictions, and the order whose prefix the subset is.
_Member = tuple[int, str]


def _groups(source: Predictions, fraction: float) -> tuple[str, dict[str, list[_Member]]]:
    """Return what the groups are ("size" or "selector") and the members of each."""
    groups: dict[str, list[_Member]] = {}
    single = len(source.selectors) == 1
    for subsets in source.selectors:
        n_neurons = int(subsets.rows["n_neurons"].max())
        nearest = int(np.argmin(np.abs(subsets.sizes / n_neurons - fraction)))
        for i, size in enumerate(subsets.sizes):
            if (size == n_neurons) if single else (i != nearest):
                continue
            members = [
                (int(row), f"{subsets.selector}/{seed}")
                for row, seed in zip(subsets.row_index[i], subsets.seeds, strict=True)
                if row >= 0
            ]
            groups[f"{size:,}" if single else subsets.selector] = members
    if source.full_row is not None:
        groups["whole layer"] = [(source.full_row, "")]
    return ("size" if single else "selector"), groups


def _pairs(first: list[_Member], second: list[_Member], same: bool) -> list[tuple[int, int]]:
    """Pairs of rows of different orders; pairs of one order only if there are no others."""
    if same and len(first) == 1:
        return [(first[0][0], first[0][0])]
    pairs = [(i, j) for i, order in first for j, other in second if order != other]
    return pairs or [(i, j) for i, _ in first for j, _ in second]
