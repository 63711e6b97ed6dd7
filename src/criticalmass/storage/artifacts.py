"""What a run keeps of a cell besides its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import RunError, unknown_name


@dataclass(frozen=True, eq=False)
class Artifact:
    """What is kept of some cells besides their value.

    Attributes
    ----------
    kind: "predictions": class ids, (n_rows, n_test), stored in the smallest unsigned type;
        "scores": score of every query, (n_rows, n_queries), stored as float32: all test
        samples, or a sample of them where a neighbour measure has many;
        "replicates": the measure without test block b, (n_rows, n_blocks), float64.
    values: two-dimensional, one row per cell or per group of cells.
    """

    kind: str
    values: npt.NDArray[Any]

    def stored(self) -> npt.NDArray[Any]:
        """Return the values in the type they are stored in.

        Raises
        ------
        RunError: for an unknown kind, a wrong shape, or values that the kind cannot hold.
        """
        if self.kind not in KINDS:
            raise unknown_name("kind of artifact", self.kind, KINDS)
        values = np.asarray(self.values)
        if values.ndim != 2:
            raise RunError(f"{self.kind} have shape (n_rows, n_columns), got {values.shape}")
        if self.kind == "predictions":
            if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
                raise RunError(f"predictions are class ids 0 or more, got {values.dtype}")
            top = int(values.max()) if values.size else 0
            return np.ascontiguousarray(values, dtype=np.min_scalar_type(top))
        if not np.isfinite(values).all():
            raise RunError(f"{self.kind} hold NaN or infinity; record the cell as failed instead")
        dtype = np.float32 if self.kind == "scores" else np.float64
        return np.ascontiguousarray(values, dtype=dtype)


KINDS: tuple[str, ...] = ("predictions", "scores", "replicates")
