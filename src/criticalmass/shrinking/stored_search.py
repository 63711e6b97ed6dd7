"""Searches of stored vectors in short: all forms in one pass over the whole vectors.

A block of whole vectors is read once. Projections onto the first columns of one matrix share their
product, which is exact (see `stored_vectors`), so each form gets the same bits as alone. Threads
share the forms, or the queries of a single form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.blas import gemm_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import Progress
from criticalmass.core.rows import Rows, RowSubset
from criticalmass.core.threads import MAX_THREADS, map_in_threads, thread_count
from criticalmass.measures.nearest_kernels import search_tile
from criticalmass.shrinking.codec import CHUNK_ROWS, Codec, ValueRange
from criticalmass.shrinking.probe_evaluator import IndexArray, LabelledRows, QueryScores
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator
from criticalmass.shrinking.stored_vectors import ShortMap, on_grid, unit_rows

_LARGEST = float(np.finfo(np.float32).max)
# Queries whose products with a block are computed at a time.
_QUERY_ROWS = 256
# Whole vectors of at most this many bytes as float32 are held in memory while they are searched.
_HELD_BYTES = 1 << 28
#: The ranges and means of a precision are learned from at most this many stored vectors.
MOST_CODEC_ROWS = 100_000
_CODEC_SEED = 3
#: Among more stored vectors, what is no promise is measured by fewer queries.
MANY_ROWS = 200_000
_FEW_QUERIES = 500
# A search of so few stored vectors shows no progress of its own.
_SILENT_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class Encoding:
    """How a vector is stored: shortened by a map, and encoded by a codec of short vectors."""

    short_map: ShortMap
    codec: Codec

    @property
    def is_whole(self) -> bool:
        """Whether vectors are stored as they are, in float32."""
        is_all = self.short_map.indices is None and self.short_map.matrix is None
        return is_all and self.codec.precision == "float32"

    def queries(self, whole: NDArray[Any]) -> NDArray[np.float32]:
        """Return queries as they are compared: short, and encoded where bits are stored."""
        short = self.short_map(whole)
        return self.stored(short) if self.codec.precision == "binary" else short

    def stored(self, short: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return short vectors as they are read back."""
        if self.codec.precision == "float32":
            return short
        return self.codec.decode(self.codec.encode(short))


@dataclass(frozen=True, eq=False)
class _Block:
    """Whole vectors, and the products that several maps share.

    Attributes
    ----------
    start: number of the first row.
    vectors: (n, n_neurons) float32.
    numbers: (n, n_neurons) the same on the grid of projections; None without projections.
    projected: map that others are prefixes of -> (n, n_kept) product with its directions.
    """

    start: int
    vectors: NDArray[np.float32]
    numbers: FloatArray | None
    projected: dict[int, FloatArray]


@dataclass(frozen=True, eq=False)
class SharedMaps:
    """Maps of the same whole vectors.

    Attributes
    ----------
    maps: the maps.
    base: map -> the widest map of which it is a prefix, itself included; None for a subset.
    """

    maps: Sequence[ShortMap]
    base: Sequence[int | None]

    @classmethod
    def of(cls, maps: Sequence[ShortMap]) -> SharedMaps:
        """Find the maps that are prefixes of others."""
        base: list[int | None] = [None] * len(maps)
        widest: list[int] = []
        for number in sorted(range(len(maps)), key=lambda i: -maps[i].n_kept):
            matrix = maps[number].matrix
            if matrix is None:
                continue
            for other in widest:
                of_other = maps[other].matrix
                if of_other is not None and np.array_equal(of_other[:, : matrix.shape[1]], matrix):
                    base[number] = other
                    break
            else:
                widest.append(number)
                base[number] = number
        return cls(maps, base)

    def blocks(self, rows: Rows) -> Iterator[_Block]:
        """Yield the blocks of (n_stored, n_neurons) rows, with what several maps share."""
        shared = {b for b in self.base if b is not None and self.base.count(b) > 1}
        has_projections = any(base is not None for base in self.base)
        for start in range(0, int(rows.shape[0]), CHUNK_ROWS):
            vectors = np.asarray(rows[start : start + CHUNK_ROWS], dtype=np.float32)
            numbers = on_grid(vectors) if has_projections else None
            projected = {}
            if numbers is not None:
                projected = {base: self.maps[base].project(numbers) for base in shared}
            yield _Block(start, vectors, numbers, projected)

    def short(self, number: int, block: _Block) -> NDArray[np.float32]:
        """Return the (n, n_kept) short vectors of a block by one map."""
        short_map, base = self.maps[number], self.base[number]
        if base is None or block.numbers is None:
            return short_map(block.vectors)
        if base in block.projected:
            return unit_rows(block.projected[base][:, : short_map.n_kept])
        return unit_rows(short_map.project(block.numbers))


def search_stored(
    rows: Rows, queries: NDArray[np.float32], encodings: Sequence[Encoding], n_listed: int
) -> list[NDArray[np.int32]]:
    """Search stored vectors in every form, by inner products with what is stored.

    Parameters
    ----------
    rows: (n_stored, n_neurons) whole vectors.
    queries: (n_queries, n_neurons) whole queries.
    encodings: the forms. Forms of one `ShortMap` object share the short vectors.
    n_listed: rows to find for each query, at most n_stored.

    Returns
    -------
    Per form the (n_queries, n_listed) rows of largest inner product, the largest first. Of two
    equal products the earlier row is first.
    """
    if not encodings:
        return []
    groups: dict[int, list[int]] = {}
    for number, encoding in enumerate(encodings):
        groups.setdefault(id(encoding.short_map), []).append(number)
    members = list(groups.values())
    shared = SharedMaps.of([encodings[numbers[0]].short_map for numbers in members])
    compared = [encoding.queries(queries) for encoding in encodings]
    shape = (len(encodings), 1, len(queries), n_listed)
    best, ids = np.full(shape, _LARGEST, np.float32), np.zeros(shape, np.int32)

    def search(task: tuple[_Block, int, slice, NDArray[np.float32] | None]) -> None:
        block, group, part, short = task
        short = shared.short(group, block) if short is None else short
        n = len(short)
        row_numbers = np.arange(block.start, block.start + n, dtype=np.int32)
        terms = np.zeros((1, n), np.float32), np.full((1, n), -1.0, np.float32)
        sizes = np.array([short.shape[1]], dtype=np.int64)
        for number in members[group]:
            tile = (encodings[number].stored(short), *terms, row_numbers)
            lists = best[number, :, part], ids[number, :, part]
            search_tile(compared[number][part], tile, sizes, lists, _QUERY_ROWS, gemm_arguments())

    # A task starts when the one as many places before it as there are threads is done, so no two
    # threads ever write to the same lists.
    n_threads, n_queries = min(MAX_THREADS, thread_count()), len(queries)
    n_parts = 1 if len(members) >= n_threads else n_threads
    parts = [slice(i * n_queries // n_parts, (i + 1) * n_queries // n_parts)
             for i in range(n_parts)]  # fmt: skip
    tasks = (
        (block, group, part, short)
        for block in _report_blocks(shared.blocks(rows), int(rows.shape[0]))
        for group in range(len(members))
        for short in [shared.short(group, block) if n_parts > 1 else None]
        for part in parts
    )
    for _ in map_in_threads(search, tasks):
        pass
    return [lists[0] for lists in ids]


def _report_blocks(blocks: Iterator[_Block], n: int) -> Iterator[_Block]:
    """Yield blocks of ``n`` stored vectors; their progress is shown if they are many."""
    if n <= _SILENT_ROWS:
        yield from blocks
        return
    with Progress("search of the stored vectors", total=n, unit="vectors") as bar:
        for block in blocks:
            yield block
            bar.advance(len(block.vectors))


def learn_encodings(rows: Rows, precisions: Sequence[tuple[ShortMap, str]]) -> list[Encoding]:
    """Learn the codecs of short vectors in one pass.

    Parameters
    ----------
    rows: (n_stored, n_neurons) whole vectors; of more than `MOST_CODEC_ROWS`, that many are read,
        drawn with a fixed seed.
    precisions: the maps and precisions.
    """
    if int(rows.shape[0]) > MOST_CODEC_ROWS:
        rng = np.random.default_rng(_CODEC_SEED)
        chosen = rng.choice(int(rows.shape[0]), MOST_CODEC_ROWS, replace=False)
        rows = RowSubset(rows, np.sort(chosen))
    maps = list({id(short_map): short_map for short_map, _ in precisions}.values())
    shared = SharedMaps.of(maps)
    needed = {id(m) for m, precision in precisions if precision in ("int8", "binary")}
    numbers = [number for number, short_map in enumerate(maps) if id(short_map) in needed]
    ranges = {id(short_map): ValueRange.nothing(short_map.n_kept) for short_map in maps}

    def measure(task: tuple[_Block, int]) -> ValueRange:
        block, number = task
        return ValueRange.of(shared.short(number, block))

    tasks = ((block, number) for block in shared.blocks(rows) for number in numbers)
    for position, of_block in enumerate(map_in_threads(measure, tasks) if numbers else ()):
        key = id(maps[numbers[position % len(numbers)]])
        ranges[key] = ranges[key].merge(of_block)
    return [
        Encoding(short_map, ranges[id(short_map)].codec(precision))
        for short_map, precision in precisions
    ]


@dataclass(frozen=True, eq=False)
class StoredEvaluator:
    """Scores forms of stored vectors by the neighbours that queries find.

    Attributes
    ----------
    reference: stored vectors, queries, what is relevant, and how neighbours are scored.
    """

    reference: RetrievalEvaluator

    @property
    def stored(self) -> LabelledRows:
        """The whole vectors that are searched."""
        return self.reference.corpus

    @cached_property
    def rows(self) -> Rows:
        """The same (n_stored, n_neurons) vectors, in memory if they are few."""
        rows = self.stored.rows
        n, d = (int(length) for length in rows.shape)
        return np.asarray(rows[0:n]) if 4 * n * d <= _HELD_BYTES else rows

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        """(n_queries, n_neurons) whole queries."""
        rows = self.reference.queries.rows
        return np.ascontiguousarray(rows[0 : int(rows.shape[0])], dtype=np.float32)

    def evaluate(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> QueryScores:
        """Score the first ``sizes`` dimensions of (n_neurons,) ``order``, without re-ranking."""
        maps = [ShortMap(order.size, np.sort(order[:size])) for size in sizes]
        scores = [of_form[0] for of_form in self.scores([(m, precision) for m in maps], (0,))]
        return QueryScores(sizes, np.stack(scores), self.reference.scores_full)

    def evaluate_orders(
        self, orders: Sequence[IndexArray], size: int, precision: str
    ) -> list[QueryScores]:
        """Score the first ``size`` dimensions of several orders in one pass.

        Among more than `MANY_ROWS` stored vectors by at most 500 of the queries.
        """
        if int(self.rows.shape[0]) > MANY_ROWS:
            few = self.reference.with_queries(_FEW_QUERIES)
            return replace(self, reference=few)._score_orders(orders, size, precision)
        return self._score_orders(orders, size, precision)

    def _score_orders(
        self, orders: Sequence[IndexArray], size: int, precision: str
    ) -> list[QueryScores]:
        maps = [ShortMap(order.size, np.sort(order[:size])) for order in orders]
        scores = self.scores([(short_map, precision) for short_map in maps], (0,))
        full = self.reference.scores_full
        return [QueryScores((size,), of_form[0][None], full) for of_form in scores]

    def scores(
        self, forms: Sequence[tuple[ShortMap, str]], reranks: Sequence[int]
    ) -> list[list[FloatArray]]:
        """Learn maps with precisions and score them, all in one pass.

        Returns
        -------
        Per form, and per amount of re-ranking, (n_queries,) scores by the measure.
        """
        encodings = learn_encodings(self.rows, forms)
        retrieved = self.neighbours([(encoding, reranks) for encoding in encodings])
        return [[self.reference.score(ids) for ids in lists] for lists in retrieved]

    def neighbours(
        self, requests: Sequence[tuple[Encoding, Sequence[int]]]
    ) -> list[list[NDArray[np.int32]]]:
        """Return the (n_queries, 10) rows that are retrieved.

        Parameters
        ----------
        requests: forms, each with its amounts of re-ranking.

        Returns
        -------
        Per form, and per amount of re-ranking.
        """
        reference = self.reference
        k, n_stored = reference.n_neighbours, int(self.rows.shape[0])
        most = max((rerank for _, reranks in requests for rerank in reranks), default=1)
        n_listed = min(n_stored, k * max(1, most) + reference.n_own)
        # All dimensions in float32 are what the others are compared with.
        encodings = [encoding for encoding, _ in requests if not encoding.is_whole]
        searched = iter(search_stored(self.rows, self.queries, encodings, n_listed))
        retrieved = []
        for encoding, reranks in requests:
            if encoding.is_whole:
                retrieved.append([reference.neighbours_full] * len(reranks))
                continue
            listed = reference.drop_own(next(searched))
            retrieved.append(
                [
                    reference.rerank(listed[:, : rerank * k]) if rerank else listed[:, :k]
                    for rerank in reranks
                ]
            )
        return retrieved
