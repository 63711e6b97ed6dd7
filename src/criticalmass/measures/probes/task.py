"""The input and output of probes: `ProbeTask` and `ProbeScores`.

A probe is a function ``ProbeTask -> ProbeScores``. A task has one layer and all seeds and sizes
of one selector, so that a probe can share work between the subsets.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.rows import CHUNK_ROWS, Rows
from criticalmass.errors import CriticalMassError
from criticalmass.storage.classifier import Classifier
from criticalmass.storage.prompts import ClassPrompts

STATUSES = ("ok", "not_converged")


@dataclass(frozen=True, eq=False)
class ProbeTask:
    """All subsets of one selector on one layer, with the data to train and score on.

    Attributes
    ----------
    x_train: (n_train, n_neurons) rows, raw (probes that standardise do it themselves).
    y_train: (n_train,) int64, class ids in ``0..n_classes-1``.
    x_test: (n_test, n_neurons) rows.
    n_classes: number of classes, at least 2.
    orders: (n_seeds, n_neurons) intp, one permutation of the neurons per seed.
    sizes: prefix lengths, strictly ascending, in ``1..n_neurons``.
    validation: (n_train,) bool, the training rows on which hyper-parameters are chosen.
    seed: seed of the probe's randomness.
    compute: threads, device, memory and workers of the fits.
    classifier: the network's own, with the classes as its outputs; None: it is not known.
    prompts: of the classes, in the space of the rows; None: there are none.

    Raises
    ------
    CriticalMassError
        If a shape, a label, an order or a size does not fit the others.
    """

    x_train: Rows
    y_train: NDArray[np.int64]
    x_test: Rows
    n_classes: int
    orders: NDArray[np.intp]
    sizes: tuple[int, ...]
    validation: NDArray[np.bool_]
    seed: int = 0
    compute: Compute = DEFAULT_COMPUTE
    classifier: Classifier | None = None
    prompts: ClassPrompts | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        _check_matrices(self.x_train, self.x_test)
        _check_labels(self.y_train, self.n_train, self.n_classes)
        _check_orders(self.orders, self.n_neurons)
        _check_sizes(self.sizes, self.n_neurons)
        if self.validation.shape != (self.n_train,) or self.validation.dtype != np.bool_:
            raise CriticalMassError(
                f"validation has shape {self.validation.shape} and dtype {self.validation.dtype}; "
                f"give one bool per training row: ({self.n_train},)"
            )
        if self.seed < 0:
            raise CriticalMassError(f"seed={self.seed} but a seed must be 0 or more")

    @property
    def n_train(self) -> int:
        """Number of training rows, validation rows included."""
        return int(self.x_train.shape[0])

    @property
    def n_test(self) -> int:
        """Number of test rows."""
        return int(self.x_test.shape[0])

    @property
    def n_neurons(self) -> int:
        """Number of neurons of the whole layer."""
        return int(self.x_train.shape[1])

    @property
    def n_seeds(self) -> int:
        """Number of orders."""
        return int(self.orders.shape[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Shape (n_seeds, n_sizes) of every array of scores."""
        return self.n_seeds, len(self.sizes)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear probe of raw features; it predicts the class of the largest response.

    The responses to a sample x (n_kept,) are ``coef @ x + intercept``.

    Attributes
    ----------
    coef: (n_present, n_kept) float32 weights on raw columns, in the order of the subset.
    intercept: (n_present,) float64.
    classes: (n_present,) int64, the class ids that occur in the training rows.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float64]
    classes: NDArray[np.int64]

    def probabilities(
        self, rows: Rows, columns: NDArray[np.intp], n_classes: int
    ) -> NDArray[np.float64]:
        """Return the class probabilities of raw rows, (n_samples, n_classes), by the softmax.

        Classes that the head does not know have the probability 0.

        Parameters
        ----------
        rows: (n_samples, n_neurons).
        columns: (n_kept,) the subset.
        n_classes: number of classes.
        """
        from scipy.special import softmax  # slow to import, and not needed to read a slim model

        out = np.zeros((int(rows.shape[0]), n_classes))
        for start in range(0, len(out), CHUNK_ROWS):
            block = np.asarray(rows[start : start + CHUNK_ROWS])[:, columns].astype(np.float64)
            logits = block @ self.coef.T.astype(np.float64) + self.intercept
            out[start : start + len(block), self.classes] = softmax(logits, axis=1)
        return out


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """The result of a probe, one entry per seed and size.

    Attributes
    ----------
    predictions: (n_seeds, n_sizes, n_test) unsigned class ids.
    l2: (n_seeds, n_sizes) float64, the chosen penalty; nan for a probe without penalty.
    gap: (n_seeds, n_sizes) float64, relative optimality gap; nan without a certificate.
    passes: (n_seeds, n_sizes) int32, passes over the training data.
    seconds: (n_seeds, n_sizes) float64, wall time in seconds, shared work split evenly.
    status: (n_seeds, n_sizes) object, ``"ok"`` or ``"not_converged"``.
    heads: the fitted heads, per seed and size; None for a probe that does not return them.

    Raises
    ------
    CriticalMassError
        If the shapes differ, predictions are signed, or a status is unknown.
    """

    predictions: NDArray[np.unsignedinteger[Any]]
    l2: NDArray[np.float64]
    gap: NDArray[np.float64]
    passes: NDArray[np.int32]
    seconds: NDArray[np.float64]
    status: NDArray[np.object_]
    heads: tuple[tuple[LinearHead, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Check that all arrays have the same grid."""
        if self.predictions.ndim != 3 or self.predictions.dtype.kind != "u":
            raise CriticalMassError(
                f"predictions have shape {self.predictions.shape} and dtype "
                f"{self.predictions.dtype}; give unsigned (n_seeds, n_sizes, n_test)"
            )
        grid = self.predictions.shape[:2]
        for name in ("l2", "gap", "passes", "seconds", "status"):
            shape = getattr(self, name).shape
            if shape != grid:
                raise CriticalMassError(f"{name} has shape {shape}, predictions have {grid}")
        unknown = [status for status in self.status.flat if status not in STATUSES]
        if unknown:
            raise CriticalMassError(
                f"status {unknown[0]!r} is unknown; use one of: {', '.join(STATUSES)}"
            )


def uncertified_scores(
    predictions: NDArray[np.unsignedinteger[Any]],
    seconds: float,
    *,
    l2: NDArray[np.float64] | None = None,
    passes: int = 0,
) -> ProbeScores:
    """Return the scores of a probe without certificate: ``gap`` is nan, ``status`` is "ok".

    Parameters
    ----------
    predictions: (n_seeds, n_sizes, n_test) unsigned class ids.
    seconds: wall time in seconds of the whole task; split evenly over the grid.
    l2: (n_seeds, n_sizes) chosen penalties; nan by default.
    passes: passes over the training data, the same for all.
    """
    grid = (predictions.shape[0], predictions.shape[1])
    seconds_per_cell = seconds / max(1, grid[0] * grid[1])
    return ProbeScores(
        predictions=predictions,
        l2=np.full(grid, np.nan) if l2 is None else l2,
        gap=np.full(grid, np.nan),
        passes=np.full(grid, passes, dtype=np.int32),
        seconds=np.full(grid, seconds_per_cell),
        status=np.full(grid, "ok", dtype=object),
    )


def label_dtype(n_classes: int) -> DTypeLike:
    """Return the smallest unsigned dtype that holds the ids of ``n_classes`` classes."""
    return np.min_scalar_type(max(0, n_classes - 1))


def compact_labels(
    array: NDArray[np.integer[Any]], n_classes: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Store class ids in the smallest unsigned dtype that holds ``n_classes`` of them."""
    return np.asarray(array).astype(label_dtype(n_classes), copy=False)


def _check_matrices(x_train: Rows, x_test: Rows) -> None:
    for name, rows in (("x_train", x_train), ("x_test", x_test)):
        if len(rows.shape) != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
            raise CriticalMassError(
                f"{name} has shape {tuple(rows.shape)}; give (n_samples, n_neurons), both >= 1"
            )
    if x_train.shape[1] != x_test.shape[1]:
        raise CriticalMassError(
            f"x_train has {x_train.shape[1]} neurons but x_test has {x_test.shape[1]}; "
            "take both from the same layer"
        )


def _check_labels(y_train: NDArray[np.int64], n_train: int, n_classes: int) -> None:
    if n_classes < 2:
        raise CriticalMassError(f"n_classes={n_classes}; a probe needs at least 2 classes")
    if y_train.shape != (n_train,) or y_train.dtype.kind not in "iu":
        raise CriticalMassError(
            f"y_train has shape {y_train.shape} and dtype {y_train.dtype}; "
            f"give one class id per training row: ({n_train},)"
        )
    low, high = int(y_train.min()), int(y_train.max())
    if low < 0 or high >= n_classes:
        raise CriticalMassError(
            f"y_train holds class ids {low}..{high} but n_classes={n_classes}; "
            f"number the classes 0..{n_classes - 1}"
        )


def _check_orders(orders: NDArray[np.intp], n_neurons: int) -> None:
    if orders.ndim != 2 or orders.shape[0] < 1 or orders.shape[1] != n_neurons:
        raise CriticalMassError(
            f"orders have shape {orders.shape}; give (n_seeds, n_neurons) = (any, {n_neurons})"
        )
    if orders.dtype.kind not in "iu":
        raise CriticalMassError(
            f"orders have dtype {orders.dtype}; give integers, permutations of 0..{n_neurons - 1}"
        )
    if not bool((np.sort(orders, axis=1) == np.arange(n_neurons)).all()):
        raise CriticalMassError(f"orders must be permutations of 0..{n_neurons - 1}, one per row")


def _check_sizes(sizes: tuple[int, ...], n_neurons: int) -> None:
    is_ascending = all(a < b for a, b in itertools.pairwise(sizes))
    if not sizes or not is_ascending or sizes[0] < 1 or sizes[-1] > n_neurons:
        raise CriticalMassError(
            f"sizes={sizes}; give strictly ascending prefix lengths in 1..{n_neurons}"
        )
