"""Arguments that `explain` and `report` share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from criticalmass.errors import CriticalMassError


def sorted_deltas(deltas: float | Sequence[float]) -> tuple[float, ...]:
    """Return the distinct deltas in ascending order.

    Raises
    ------
    CriticalMassError: if there is none, or one is not in (0, 1].
    """
    numbers = tuple(sorted({float(delta) for delta in np.atleast_1d(deltas)}))
    if not numbers or not all(0.0 < delta <= 1.0 for delta in numbers):
        raise CriticalMassError(f"deltas={deltas!r}: each must be in (0, 1], e.g. 0.9")
    return numbers
