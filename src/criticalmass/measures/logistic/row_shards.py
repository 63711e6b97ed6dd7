"""Row shards on a worker: what the worker caches, and the operations that it runs on its shards.

The rows of a matrix are cut into `N_SHARDS` shards. An operation is a function
``(cache, key, shards, ...) -> {node: value}``: it computes a value for every shard, and if the
values are sums, adds up those that are neighbours in the tree over all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compute import HELD_BYTES
from criticalmass.core.moments import IntArray, Moments, moments
from criticalmass.core.rows import Rows, RowSlice, RowSubset, check_finite
from criticalmass.measures.logistic import cpu_passes
from criticalmass.measures.logistic.cpu_passes import CpuLogits, Sums, add_sums
from criticalmass.measures.logistic.preconditioner import FloatArray
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import (
    MOMENT_CHUNK,
    OrderedRows,
    StreamedRows,
    ordered_rows,
    second_moment_sum,
)
from criticalmass.measures.scaling import Scaling

N_SHARDS = 32

Value = TypeVar("Value")

#: Position in the tree of sums: level (0 for the shards) and number within the level.
NodeId = tuple[int, int]


def shard_bounds(n: int) -> list[tuple[int, int]]:
    """Return the row range of every shard of ``n`` rows.

    Shards are as equal as whole chunks of 1024 rows allow; some may be empty. Chunks are not cut
    because passes sum 256 rows at a time and second moments 1024.
    """
    n_chunks = -(-n // MOMENT_CHUNK)
    edges = [min(n, MOMENT_CHUNK * (i * n_chunks // N_SHARDS)) for i in range(N_SHARDS)] + [n]
    return list(pairwise(edges))


def assign_shards(source: StreamedRows | Rows, n_workers: int) -> list[list[int]]:
    """Return the non-empty shards of every worker, neighbours on the same worker."""
    n = source.n if isinstance(source, StreamedRows) else int(source.shape[0])
    bounds = shard_bounds(n)
    return [
        [i for i in map(int, numbers) if bounds[i][0] < bounds[i][1]]
        for numbers in np.array_split(np.arange(N_SHARDS), n_workers)
    ]


def slice_rows(rows: Rows, start: int, stop: int) -> Rows:
    """Return a range of rows as a matrix."""
    if isinstance(rows, RowSubset):
        return RowSubset(rows.rows, rows.index[start:stop])
    return RowSlice(rows, start, stop)


def tree_reduce(
    values: Mapping[NodeId, Value], add: Callable[[Value, Value], Value]
) -> dict[NodeId, Value]:
    """Replace pairs of sibling nodes by their parent until no pair is left."""
    nodes = dict(values)
    for level in range(N_SHARDS.bit_length() - 1):
        for left in sorted(node for node in nodes if node[0] == level and node[1] % 2 == 0):
            right = (level, left[1] + 1)
            if right in nodes:
                nodes[level + 1, left[1] // 2] = add(nodes.pop(left), nodes.pop(right))
    return nodes


class _SingleThread:
    """Row splitter of the calling thread: it does not split."""

    n_threads = 1

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        work(0, 0, n)


@dataclass(frozen=True, eq=False)
class StoredPass:
    """A pass whose logits are stored on the workers.

    Parameters
    ----------
    number: identifies the pass.
    heads: the heads.
    intercepts: (C,) final intercepts by position in the stack, for the residuals.
    """

    number: int
    heads: StackedHeads
    intercepts: Mapping[int, NDArray[np.float64]]


class ShardCache:
    """What a worker stores between passes. All of it can be computed again from the sources.

    Parameters
    ----------
    threads: number of shards that are processed at once.
    memory_bytes: largest size of the standardised rows that the worker holds in memory.

    Attributes
    ----------
    sources: by key: the matrix or the streamed rows of one order that are cut into shards.
    """

    def __init__(self, threads: int = 1, memory_bytes: int = HELD_BYTES) -> None:
        self.sources: dict[int, Any] = {}
        self._threads, self._memory_bytes = threads, memory_bytes
        self._rows: dict[tuple[int, int], OrderedRows] = {}
        self._logits: dict[tuple[int, int], tuple[int, CpuLogits]] = {}

    def map(self, function: Callable[[int], Value], shards: Sequence[int]) -> dict[NodeId, Value]:
        """Call ``function(shard)`` for every shard in threads; return values by leaf node."""
        with ThreadPoolExecutor(self._threads) as pool:
            values = pool.map(function, shards)
            return {(0, i): value for i, value in zip(shards, values, strict=True)}

    def rows(self, key: int, shard: int, n_shards: int) -> OrderedRows:
        """Return one shard's rows, in memory if they fit the shard's part of the memory."""
        if (key, shard) not in self._rows:
            source = self.sources[key]
            start, stop = shard_bounds(source.n)[shard]
            self._rows[key, shard] = ordered_rows(
                slice_rows(source.rows, start, stop),
                source.y[start:stop],
                source.scaling,
                source.columns,
                limit=self._memory_bytes // n_shards,
            )
        return self._rows[key, shard]

    def logits(self, key: int, shard: int, n_shards: int, stored: StoredPass) -> CpuLogits:
        """Return the logits of a pass over one shard; callers must not change them."""
        number, logits = self._logits.get((key, shard), (-1, None))
        if logits is None or number != stored.number:
            logits = CpuLogits(self.rows(key, shard, n_shards), stored.heads, _SingleThread())
            self._logits[key, shard] = stored.number, logits
        return logits

    def gradient_sum(self, key: int, shard: int, n_shards: int, stored: StoredPass) -> FloatArray:
        """Sum residual times row; the logits become residuals and are discarded."""
        logits = self.logits(key, shard, n_shards, stored)
        del self._logits[key, shard]
        for i, b in stored.intercepts.items():
            logits.to_residuals(i, b)
        return logits.gradient_sum()

    def keep_only(self, live: Sequence[int]) -> None:
        """Discard everything that belongs to keys outside ``live``."""
        self.sources = {key: value for key, value in self.sources.items() if key in live}
        self._rows = {key: value for key, value in self._rows.items() if key[0] in live}
        self._logits = {key: value for key, value in self._logits.items() if key[0] in live}


# --- operations: (cache, key, shards, ...) -> {node: value} ---------------------------------------
def pass_sums(
    cache: ShardCache,
    key: int,
    shards: Sequence[int],
    heads: StackedHeads,
    with_square: NDArray[np.bool_],
) -> dict[NodeId, Sums]:
    """Make one pass; see `cpu_passes.pass_sums`."""

    def work(shard: int) -> Sums:
        rows = cache.rows(key, shard, len(shards))
        return cpu_passes.pass_sums(rows, heads, with_square, _SingleThread())

    return tree_reduce(cache.map(work, shards), add_sums)


def classify_shards(
    cache: ShardCache, key: int, shards: Sequence[int], heads: StackedHeads
) -> dict[NodeId, NDArray[np.int32]]:
    """Return the class of every row of a shard under every head, (n_heads, rows)."""

    def work(shard: int) -> NDArray[np.int32]:
        rows = cache.rows(key, shard, len(shards))
        return cpu_passes.classify_rows(rows, heads, _SingleThread())

    return cache.map(work, shards)


def logit_sums(
    cache: ShardCache,
    key: int,
    shards: Sequence[int],
    stored: StoredPass,
    function: Callable[[CpuLogits], Sums],
) -> dict[NodeId, Sums]:
    """Sum a function of the stored logits of a pass."""
    values = cache.map(lambda i: function(cache.logits(key, i, len(shards), stored)), shards)
    return tree_reduce(values, add_sums)


def head_moments(i: int, b: NDArray[np.float64], logits: CpuLogits) -> Sums:
    """Sum head i's cross-entropies and probabilities."""
    loss, mean = logits.moments(i, b)
    return np.array([loss]), mean


def head_square(i: int, b: NDArray[np.float64], logits: CpuLogits) -> Sums:
    """Sum p p' of head i."""
    return (logits.square(i, b),)


def gradient_sums(
    cache: ShardCache, key: int, shards: Sequence[int], stored: StoredPass
) -> dict[NodeId, Sums]:
    """Sum residual times row; ``stored.intercepts`` must have all heads."""
    values = cache.map(lambda i: (cache.gradient_sum(key, i, len(shards), stored),), shards)
    return tree_reduce(values, add_sums)


def column_sums(
    cache: ShardCache, key: int, shards: Sequence[int], shift: NDArray[np.float64]
) -> dict[NodeId, Sums]:
    """Sum columns minus a shift, and the squares of these."""
    rows = cache.sources[key]
    bounds = shard_bounds(int(rows.shape[0]))

    def work(shard: int) -> Sums:
        total, square = np.zeros_like(shift), np.zeros_like(shift)
        for start in range(*bounds[shard], MOMENT_CHUNK):
            block = np.asarray(rows[start : min(start + MOMENT_CHUNK, bounds[shard][1])])
            check_finite(block, start)
            centred = block - shift
            total += centred.sum(axis=0)
            square += np.einsum("ij,ij->j", centred, centred)
        return total, square

    return tree_reduce(cache.map(work, shards), add_sums)


def second_moment_sums(
    cache: ShardCache, key: int, shards: Sequence[int], scaling: Scaling
) -> dict[NodeId, Sums]:
    """Sum products of standardised columns and count the rows; see `second_moment_sum`."""
    rows = cache.sources[key]
    bounds = shard_bounds(int(rows.shape[0]))

    def work(shard: int) -> Sums:
        total, n_used = second_moment_sum(rows, scaling, *bounds[shard])
        return total, np.array([n_used])

    return tree_reduce(cache.map(work, shards), add_sums)


def shard_moments(
    cache: ShardCache,
    key: int,
    shards: Sequence[int],
    labels: IntArray | None,
    n_classes: int | None,
) -> dict[NodeId, Moments]:
    """Compute and merge the moments of raw rows."""
    rows = cache.sources[key]
    bounds = shard_bounds(int(rows.shape[0]))

    def work(shard: int) -> Moments:
        start, stop = bounds[shard]
        shard_labels = None if labels is None else labels[start:stop]
        return moments(RowSlice(rows, start, stop), shard_labels, n_classes=n_classes)

    return tree_reduce(cache.map(work, shards), Moments.merge)
