"""Heads of several problems, stacked so that one pass serves them all (a staircase of prefixes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.preconditioner import FloatArray


def _steps(sizes: Sequence[int]) -> list[int]:
    """Return the edges of the staircase, the smallest steps merged.

    A matrix product of a few columns costs its overhead; multiplying some zeros, up to a
    fiftieth of all the work, is cheaper.
    """
    steps = sorted(set(sizes))
    allowed = sum(sizes) / 50
    while len(steps) > 1:
        added = sum(steps[1] - k for k in sizes if k < steps[1])
        if added > allowed:
            break
        steps.pop(0)
    return steps


@dataclass(frozen=True, eq=False)
class Stack:
    """Heads of several problems, stacked by descending size for the staircase."""

    sizes: tuple[int, ...]
    weights: FloatArray
    intercepts: FloatArray
    n_classes: int
    stairs: tuple[NDArray[np.intp], NDArray[np.intp]]

    @classmethod
    def of(cls, heads: Sequence[tuple[FloatArray, NDArray[np.float64]]]) -> Stack:
        """Stack (weights (C, k), intercepts (C,)) pairs, given by descending k."""
        sizes = tuple(w.shape[1] for w, _ in heads)
        c = heads[0][0].shape[0]
        stacked = np.zeros((len(heads) * c, sizes[0]), np.float32)
        for i, (w, _) in enumerate(heads):
            stacked[i * c : (i + 1) * c, : w.shape[1]] = w
        steps = _steps(sizes)
        widths = [c * sum(k > below for k in sizes) for below in (0, *steps[:-1])]
        stairs = (np.array([0, *steps], np.intp), np.array(widths, np.intp))
        intercepts = np.concatenate([b for _, b in heads]).astype(np.float32)
        return cls(sizes, stacked, intercepts, c, stairs)

    def heads(self, wanted: NDArray[np.bool_]) -> tuple[Any, ...]:
        """Return the tuple that the compiled passes take."""
        return self.weights, self.intercepts, self.n_classes, wanted
