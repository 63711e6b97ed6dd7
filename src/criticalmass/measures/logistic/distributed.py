"""Passes over rows that are distributed over workers, with a fixed order of summation.

Rows are cut into `row_shards.N_SHARDS` shards, whose sums are added in pairs, as a binary tree. A
worker has neighbouring shards and adds up the nodes of the tree that lie above its own shards
only. The rest is added here. So the number of workers and their speed do not change a byte, and a
worker sends one packed gradient or a few. Everything a worker stores can be computed again, so a
worker that dies can be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import count
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import IntArray, Moments, moments
from criticalmass.core.rows import Rows
from criticalmass.core.threads import limit_libraries, thread_count
from criticalmass.measures.logistic import cpu_passes, row_shards
from criticalmass.measures.logistic.cpu_passes import CpuLogits, Sums, add_sums
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.row_shards import NodeId, ShardCache, StoredPass, tree_reduce
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import OrderedRows, symmetric_mean
from criticalmass.measures.scaling import Scaling, column_scales
from criticalmass.storage.features import Features

#: ``(cache, key, shards) -> {node: value}``; see `row_shards`.
Operation = Callable[[ShardCache, int, Sequence[int]], dict[NodeId, Any]]


class Workers(Protocol):
    """Workers that hold the shards, each with a `ShardCache`."""

    def run(
        self, key: int, source: Any, operation: Operation, live: Sequence[int]
    ) -> list[dict[NodeId, Any]]:
        """Run an operation on every worker and return the results.

        Parameters
        ----------
        key: identifies ``source``.
        source: the rows that are cut into shards; a worker receives them once.
        operation: called on every worker with its cache, the key and its own shards.
        live: keys that may be used again; workers may discard all others.
        """
        ...


class DistributedExecutor:
    """Executor of passes over rows on workers. It outlives single fits.

    Parameters
    ----------
    workers: hold the rows.
    """

    max_columns = 640
    single_classes = 64

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._keys_by_object: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._keys_by_origin: dict[Any, int] = {}
        self._pinned: list[Features] = []
        self._numbers = count()
        self._lock = Lock()

    def __enter__(self) -> DistributedExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i in ``range(n)``, in threads of this process."""
        with limit_libraries(1), ThreadPoolExecutor(thread_count()) as pool:
            list(pool.map(work, range(n)))

    def make_preconditioner(self, moment: FloatArray) -> Preconditioner:
        """Return the preconditioner of a second moment."""
        return Preconditioner(moment)

    def gather(self, source: Any, operation: Operation) -> dict[NodeId, Any]:
        """Run an operation on all workers and return their values by node."""
        key, live = self._key(source)
        values: dict[NodeId, Any] = {}
        for result in self._workers.run(key, source, operation, live):
            values |= result
        return values

    def _key(self, source: Any) -> tuple[int, list[int]]:
        """Return the key of a source and all keys in use."""
        with self._lock:
            # Features of a store are identified by their origin, all other rows by the object.
            keys: Any = self._keys_by_object
            identity = source
            if isinstance(source, Features):
                keys, identity = self._keys_by_origin, source.origin or id(source)
            if identity not in keys:
                keys[identity] = next(self._numbers)
                if isinstance(identity, int):
                    self._pinned.append(source)  # else a later object could have the same id
            return keys[identity], [*self._keys_by_object.values(), *self._keys_by_origin.values()]

    def reduce(
        self, source: Any, operation: Operation, add: Callable[[Any, Any], Any] = add_sums
    ) -> Any:
        """Run an operation on all workers and add its values in the order of the tree."""
        values = tree_reduce(self.gather(source, operation), add)
        # Empty shards leave nodes without a sibling.
        total = reduce(add, (values[node] for node in sorted(values, key=_first_shard)))
        if isinstance(total, tuple):
            return tuple(np.require(array, requirements="W") for array in total)
        return total

    def column_scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        shift = np.asarray(rows[0:1], dtype=np.float64)[0]
        total, square = self.reduce(rows, _operation(row_shards.column_sums, shift=shift))
        n = int(rows.shape[0])
        mean = shift + total / n
        variance = np.maximum(square / n - (total / n) ** 2, 0.0)
        return Scaling(mean, column_scales(mean, variance, n))

    def second_moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns."""
        operation = _operation(row_shards.second_moment_sums, scaling=scaling)
        total, n_used = self.reduce(rows, operation)
        return symmetric_mean(total, int(n_used[0]))

    def moments(self, rows: Any, labels: IntArray | None, n_classes: int | None) -> Moments:
        """Compute moments: those of a store's features on the workers, of other rows here."""
        if not isinstance(rows, Features):
            return moments(rows, labels, n_classes=n_classes)
        operation = _operation(row_shards.shard_moments, labels=labels, n_classes=n_classes)
        total: Moments = self.reduce(rows, operation, Moments.merge)
        return total

    def evaluate(
        self, rows: OrderedRows, heads: StackedHeads, with_square: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return loss and gradient of every head."""
        operation = _operation(row_shards.pass_sums, heads=heads, with_square=with_square)
        sums = self.reduce(rows, operation)
        return cpu_passes.evaluations_by_head(sums, heads, with_square, rows.n)

    def classify(self, rows: OrderedRows, heads: StackedHeads) -> NDArray[np.int32]:
        """Return the class of every row under every head."""
        classes = self.gather(rows, _operation(row_shards.classify_shards, heads=heads))
        return np.concatenate([classes[node] for node in sorted(classes)], axis=1)

    def logits(self, rows: OrderedRows, heads: StackedHeads) -> DistributedLogits:
        """Make one pass that stores the logits of all heads on the workers."""
        return DistributedLogits(self, rows, heads, next(self._numbers))


class DistributedLogits:
    """Logits of stacked heads, stored on the workers.

    Parameters
    ----------
    executor: runs the operations.
    rows: in the order's columns.
    heads: the heads.
    number: identifies the pass.
    """

    def __init__(
        self, executor: DistributedExecutor, rows: OrderedRows, heads: StackedHeads, number: int
    ) -> None:
        self._executor, self._rows, self._heads, self._number = executor, rows, heads, number
        self._intercepts: dict[int, NDArray[np.float64]] = {}
        self.n = rows.n

    def _sum(self, function: Callable[[CpuLogits], Sums]) -> Any:
        stored = StoredPass(self._number, self._heads, {})
        operation = _operation(row_shards.logit_sums, stored=stored, function=function)
        return self._executor.reduce(self._rows, operation)

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities."""
        loss, mean = self._sum(partial(row_shards.head_moments, i, b))
        return float(loss[0]), mean

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows."""
        total: NDArray[np.float64] = self._sum(partial(row_shards.head_square, i, b))[0]
        return total

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Store the intercepts with which `gradient` turns head i's logits into p - y.

        The workers' logits do not change before that, so a replaced worker computes the same.
        """
        self._intercepts[i] = b

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row."""
        stored = StoredPass(self._number, self._heads, dict(self._intercepts))
        operation = _operation(row_shards.gradient_sums, stored=stored)
        total = self._executor.reduce(self._rows, operation)
        mean: FloatArray = total[0] / np.float32(self.n)
        return mean


def _operation(function: Callable[..., dict[NodeId, Any]], /, **arguments: Any) -> Operation:
    """Return an operation with its arguments, which can be sent to other processes."""
    return partial(_run_operation, function, arguments)


def _run_operation(
    function: Callable[..., dict[NodeId, Any]],
    arguments: dict[str, Any],
    cache: ShardCache,
    key: int,
    shards: Sequence[int],
) -> dict[NodeId, Any]:
    """Run an operation on a worker. Workers without shards return {}."""
    return function(cache, key, shards, **arguments) if shards else {}


def _first_shard(node: NodeId) -> int:
    """Return the first shard below a node."""
    return node[1] << node[0]
