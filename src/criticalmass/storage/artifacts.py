"""Artifacts: what a run stores for a cell besides its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import RunError, unknown_name

KINDS: tuple[str, ...] = ("predictions", "scores", "replicates")


@dataclass(frozen=True, eq=False)
class Artifact:
    """Stored results of some cells.

    Attributes
    ----------
    kind: "predictions": (n_rows, n_test) class ids, stored in the smallest unsigned type;
        "scores": (n_rows, n_queries) score of every query, stored as float32. The queries are
        all test samples, or a sample of them for a neighbour measure with many test samples.
        "replicates": (n_rows, n_blocks) the measure without test block b, stored as float64.
    values: two-dimensional, one row per cell or per group of cells.
    """

    kind: str
    values: npt.NDArray[Any]

    def as_stored(self) -> npt.NDArray[Any]:
        """Return the values in the type that they are stored in.

        Raises
        ------
        RunError: if the kind is unknown, the shape is wrong, or the kind cannot hold the values.
        """
        if self.kind not in KINDS:
            raise unknown_name("kind of artifact", self.kind, KINDS)
        values = np.asarray(self.values)
        if values.ndim != 2:
            raise RunError(f"{self.kind} have shape (n_rows, n_columns), got {values.shape}")
        if self.kind == "predictions":
            if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
                raise RunError(f"predictions are class ids 0 or more, got {values.dtype}")
            largest = int(values.max()) if values.size else 0
            return np.ascontiguousarray(values, dtype=np.min_scalar_type(largest))
        if not np.isfinite(values).all():
            raise RunError(
                f"{self.kind} contain NaN or infinity; record the cell as failed instead"
            )
        dtype = np.float32 if self.kind == "scores" else np.float64
        return np.ascontiguousarray(values, dtype=dtype)
