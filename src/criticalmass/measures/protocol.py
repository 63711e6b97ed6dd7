"""What all measures of a sweep share: the validation rows, and the errors that fail one cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

VALIDATION_SHARE = 0.2
VALIDATION_SEED = 0

# Errors that data can cause: a matrix without a factor (LinAlgError), a division or overflow that
# NumPy was set to raise (ArithmeticError), arrays that do not fit (MemoryError), input that a
# method refuses (CriticalMassError). Every other exception is a bug and ends the sweep.
EXPECTED = (CriticalMassError, np.linalg.LinAlgError, ArithmeticError, MemoryError)


def validation_rows(
    labels: NDArray[np.int64], share: float = VALIDATION_SHARE, seed: int = VALIDATION_SEED
) -> NDArray[np.bool_]:
    """Mark the training rows on which penalties are chosen, class by class.

    Parameters
    ----------
    labels: (n_train,) class ids.
    share: share of each class, rounded, at least one row; a class with one row has none.
    seed: fixes the choice.

    Returns
    -------
    (n_train,) bool.
    """
    rng = np.random.default_rng(seed)
    is_validation = np.zeros(labels.shape, dtype=np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if members.size > 1:
            is_validation[members[: max(1, round(share * members.size))]] = True
    return is_validation
