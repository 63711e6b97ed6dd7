"""What if there were fewer samples, fewer classes, or an ensemble? Answers of the ridge law.

Each function returns a table with one row per setting and size and fits no subset. Samples and
classes are really taken away, and the law is asked again on what is left; it is conditional on
its training set, so the noise of a small one, the dip near k = n included, is part of the answer.
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
    counts: numbers of training samples, each from 2 to all of them.
    l2: the subset's penalty, the same for all.
    sampling: how finely the law is sampled; its seed also orders the training rows.

    Raises
    ------
    CriticalMassError: for a count that the training set cannot give.
    """
    how = sampling or Sampling()
    labels = np.asarray(train[1])
    _check_counts(counts, 2, labels.size, "training samples")
    order = np.random.default_rng(how.seed).permutation(labels.size)
    found = []
    for count in counts:
        kept = np.sort(order[:count])
        basis = eigenbasis(RowSubset(train[0], kept), labels[kept], n_classes=int(labels.max()) + 1)
        found.append((count, _ask(basis, test, sizes, l2, how)))
    return _table(found)


def ridge_by_classes(
    train: Labelled,
    test: Labelled,
    sizes: Sequence[int],
    counts: Sequence[int],
    *,
    l2: float,
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """Predict ridge probes on tasks of fewer classes, nested random choices of the classes.

    Samples of the other classes are left out of training and test, so that the number of
    samples per class stays what it is.

    Parameters
    ----------
    train, test: (rows (n, n_neurons), labels (n,)).
    sizes: numbers of neurons.
    counts: numbers of classes, each from 2 to all that occur in the training set.
    l2: the subset's penalty, the same for all.
    sampling: how finely the law is sampled; its seed also orders the classes.

    Raises
    ------
    CriticalMassError: for a count that the training set cannot give.
    """
    how = sampling or Sampling()
    present = np.unique(np.asarray(train[1]))
    _check_counts(counts, 2, present.size, "classes")
    order = np.random.default_rng(how.seed).permutation(present)
    found = []
    for count in counts:
        classes = np.sort(order[:count])
        rows, labels = _of_classes(train, classes)
        basis = eigenbasis(rows, labels, n_classes=count)
        found.append((count, _ask(basis, _of_classes(test, classes), sizes, l2, how)))
    return _table(found)


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
    l2: the subset's penalty.
    sampling: how finely the law is sampled.

    Raises
    ------
    CriticalMassError: for a count below 1.
    """
    how = sampling or Sampling()
    found = predict_ridge(train, test, sizes, l2=l2, members=counts, sampling=how)
    return _table([(count, found) for count in counts], by_member=True)


def _ask(
    basis: Eigenbasis, test: Labelled, sizes: Sequence[int], l2: float, how: Sampling
) -> RidgePrediction:
    return predict_ridge(basis, test, sizes, l2=l2, sampling=how)


def _check_counts(counts: Sequence[int], least: int, most: int, what: str) -> None:
    wrong = [count for count in counts if not least <= count <= most]
    if wrong or not counts:
        raise CriticalMassError(
            f"{wrong[0] if wrong else 'no number of'} {what} asked for; "
            f"give numbers from {least} to {most}"
        )


def _of_classes(data: Labelled, classes: NDArray[Any]) -> tuple[RowSubset, NDArray[np.int64]]:
    """Return the rows of some classes, relabelled 0, 1, ... in their ascending order."""
    labels = np.asarray(data[1])
    kept = np.flatnonzero(np.isin(labels, classes))
    return RowSubset(data[0], kept), np.searchsorted(classes, labels[kept]).astype(np.int64)


def _table(
    found: Sequence[tuple[int, RidgePrediction]], *, by_member: bool = False
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        row
        for number, (setting, one) in enumerate(found)
        for row in _rows(setting, one, number if by_member else 0)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(setting: int, one: RidgePrediction, column: int) -> Iterator[tuple[float, ...]]:
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
