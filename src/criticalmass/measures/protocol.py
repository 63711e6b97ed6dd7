"""What every measure of a sweep shares: the validation rows and the errors of one cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

VALIDATION_SHARE = 0.2
VALIDATION_SEED = 0

# Data that defeat a method: no factor (LinAlgError), a division or overflow that NumPy was told
# to raise (ArithmeticError), arrays that do not fit (MemoryError), input that the method refuses
# (CriticalMassError). All else is a bug and ends the sweep.
EXPECTED = (CriticalMassError, np.linalg.LinAlgError, ArithmeticError, MemoryError)


def validation_rows(
    labels: NDArray[np.int64], share: float = VALIDATION_SHARE, seed: int = VALIDATION_SEED
) -> NDArray[np.bool_]:
    """Mark the training rows on which strengths are chosen, class by class.

    Parameters
    ----------
    labels: (n_train,) class ids.
    share: of each class, rounded, at least one row; a class with one row keeps it for the fit.
    seed: fixes the choice.

    Returns
    -------
    (n_train,) bool.
    """
    rng = np.random.default_rng(seed)
    marked = np.zeros(labels.shape, dtype=np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if members.size > 1:
            marked[members[: max(1, round(share * members.size))]] = True
    return marked
