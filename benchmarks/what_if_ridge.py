"""Predictions of the ridge law for fewer samples, fewer classes, and ensembles.

Each function returns a table with one row per setting and size, and fits no subset. Samples and
classes are removed, and the law is computed on the remaining ones. The law is conditional on its
training set, so the predictions include the noise of a small one and the minimum near k = n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import RowSubset
from criticalmass.errors import CriticalMassError
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import Sampling
from criticalmass.theory.ridge import Labelled, RidgePrediction, predict_ridge

if TYPE_CHECKING:
    import pandas as pd

#: Columns of every table; ``setting`` is the number of samples, classes or members.
COLUMNS = (
    "setting",
    "n_kept",
    "n_neurons",
    "accuracy",
    "accuracy_std",
    "error",
    "error_std",
    "accuracy_full",
    "l2",
    "penalty",
    "freedom",
)


def ridge_by_samples(
    train: Labelled,
    test: Labelled,
    sizes: Sequence[int],
    counts: Sequence[int],
    *,
    l2: float,
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """Predict ridge probes for training sets of several sizes, nested random samples of one.

    Parameters
    ----------
    train, test: (rows (n, n_neurons), labels (n,)).
    sizes: numbers of neurons.
    counts: numbers of training samples, each from 2 to all.
    l2: penalty of a subset, the same for all.
    sampling: settings of the sampling; its seed also orders the training rows.

    Raises
    ------
    CriticalMassError: a count is out of range.
    """
    sampling = sampling or Sampling()
    labels = np.asarray(train[1])
    _check_counts(counts, 2, labels.size, "training samples")
    order = np.random.default_rng(sampling.seed).permutation(labels.size)
    predictions = []
    for count in counts:
        rows = np.sort(order[:count])
        basis = eigenbasis(RowSubset(train[0], rows), labels[rows], n_classes=int(labels.max()) + 1)
        prediction = predict_ridge(basis, test, sizes, l2=l2, sampling=sampling)
        predictions.append((count, prediction))
    return _make_table(predictions)


def ridge_by_classes(
    train: Labelled,
    test: Labelled,
    sizes: Sequence[int],
    counts: Sequence[int],
    *,
    l2: float,
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """Predict ridge probes on tasks with fewer classes, nested random choices of the classes.

    Samples of the other classes are left out of training and test, so the number of samples per
    class does not change.

    Parameters
    ----------
    train, test: (rows (n, n_neurons), labels (n,)).
    sizes: numbers of neurons.
    counts: numbers of classes, each from 2 to all in the training set.
    l2: penalty of a subset, the same for all.
    sampling: settings of the sampling; its seed also orders the classes.

    Raises
    ------
    CriticalMassError: a count is out of range.
    """
    sampling = sampling or Sampling()
    present = np.unique(np.asarray(train[1]))
    _check_counts(counts, 2, present.size, "classes")
    order = np.random.default_rng(sampling.seed).permutation(present)
    predictions = []
    for count in counts:
        classes = np.sort(order[:count])
        rows, labels = _select_classes(train, classes)
        basis = eigenbasis(rows, labels, n_classes=count)
        held_out = _select_classes(test, classes)
        prediction = predict_ridge(basis, held_out, sizes, l2=l2, sampling=sampling)
        predictions.append((count, prediction))
    return _make_table(predictions)


def ridge_by_members(
    train: Labelled | Eigenbasis,
    test: Labelled,
    sizes: Sequence[int],
    counts: Sequence[int],
    *,
    l2: float,
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """Predict ensembles of ridge probes on independent random subsets.

    Parameters
    ----------
    train: (rows, labels) or the training set's eigenbasis.
    test: (rows (n_test, n_neurons), labels (n_test,)).
    sizes: numbers of neurons of each member.
    counts: numbers of members, each 1 or more.
    l2: penalty of a subset.
    sampling: settings of the sampling.

    Raises
    ------
    CriticalMassError: a count is below 1.
    """
    prediction = predict_ridge(
        train, test, sizes, l2=l2, members=counts, sampling=sampling or Sampling()
    )
    return _make_table([(count, prediction) for count in counts], by_member=True)


def _check_counts(counts: Sequence[int], least: int, most: int, what: str) -> None:
    invalid = [count for count in counts if not least <= count <= most]
    if invalid or not counts:
        raise CriticalMassError(
            f"{invalid[0] if invalid else 'no number of'} {what} given; "
            f"give numbers from {least} to {most}"
        )


def _select_classes(data: Labelled, classes: NDArray[Any]) -> tuple[RowSubset, NDArray[np.int64]]:
    """Return the rows of some classes, relabelled 0, 1, ... in their ascending order."""
    labels = np.asarray(data[1])
    indices = np.flatnonzero(np.isin(labels, classes))
    return RowSubset(data[0], indices), np.searchsorted(classes, labels[indices]).astype(np.int64)


def _make_table(
    predictions: Sequence[tuple[int, RidgePrediction]], *, by_member: bool = False
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        row
        for index, (setting, one) in enumerate(predictions)
        for row in _make_rows(setting, one, index if by_member else 0)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _make_rows(setting: int, one: RidgePrediction, column: int) -> Iterator[tuple[float, ...]]:
    for i, size in enumerate(one.sizes.tolist()):
        yield (
            setting,
            size,
            one.n_neurons,
            one.accuracy[i, column],
            one.accuracy_std[i, column],
            one.error[i, column],
            one.error_std[i, column],
            one.accuracy_full,
            one.l2[i],
            one.penalty[i],
            one.freedom[i],
        )
