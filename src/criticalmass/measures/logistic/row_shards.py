"""What a place keeps of rows that are spread over several, and what it can be asked about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk

from criticalmass.core.moments import IntArray, Moments, moments
from criticalmass.core.rows import Rows, RowSubset, Span, refuse_nonfinite
from criticalmass.measures.columns import standardised_columns
from criticalmass.measures.logistic import cpu_passes
from criticalmass.measures.logistic.cpu_passes import StoredLogits
from criticalmass.measures.logistic.preconditioner import FloatArray
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import (
    IN_MEMORY_BYTES,
    OrderedRows,
    every_of,
    ordered_rows,
)
from criticalmass.measures.scaling import Scaling

LEAVES = 32

# Chunks of this many rows are never cut: passes sum 256 rows at a time, second moments 1024.
_CHUNK = 1024

Sums = tuple[NDArray[Any], ...]

Value = TypeVar("Value")

#: Position in the tree: level (0: the leaves) and number within it.
Knot = tuple[int, int]


def cut(n: int) -> list[tuple[int, int]]:
    """Return the rows of every leaf, as even as uncut chunks allow; some may have none."""
    chunks = -(-n // _CHUNK)
    edges = [min(n, _CHUNK * (i * chunks // LEAVES)) for i in range(LEAVES)] + [n]
    return list(pairwise(edges))


def part_of(rows: Rows, a: int, b: int) -> Rows:
    """Return some rows of a matrix as a matrix."""
    if isinstance(rows, RowSubset):
        return RowSubset(rows.rows, rows.index[a:b])
    return Span(rows, a, b)


def climb(known: Mapping[Knot, Value], add: Callable[[Value, Value], Value]) -> dict[Knot, Value]:
    """Add neighbours of one knot as long as there are any."""
    found = dict(known)
    for level in range(LEAVES.bit_length() - 1):
        for left in sorted(k for k in found if k[0] == level and k[1] % 2 == 0):
            right = (level, left[1] + 1)
            if right in found:
                found[level + 1, left[1] // 2] = add(found.pop(left), found.pop(right))
    return found


def add_sums(one: Sums, two: Sums) -> Sums:
    """Add packed sums, in the place of the first."""
    # What came from another process is read-only.
    found = tuple(np.require(total, requirements="W") for total in one)
    for total, more in zip(found, two, strict=True):
        np.add(total, more, out=total)
    return found


def shares(whole: Any, n_places: int) -> list[list[int]]:
    """Deal the leaves that have rows among places, neighbours together."""
    n = whole.n if hasattr(whole, "n") else int(whole.shape[0])
    edges = cut(n)
    return [
        [i for i in map(int, mine) if edges[i][0] < edges[i][1]]
        for mine in np.array_split(np.arange(LEAVES), n_places)
    ]


class _Alone:
    """One thread, the caller's."""

    n_threads = 1

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Do all of it."""
        work(0, 0, n)


@dataclass(frozen=True, eq=False)
class Passing:
    """A pass whose logits are kept: its number, its heads, and intercepts of settled ones."""

    number: int
    stack: Stack
    settled: dict[int, NDArray[np.float64]]


@dataclass
class Holder:
    """What a place keeps between passes; all of it can be made again.

    Parameters
    ----------
    threads: leaves that are worked on at once.
    """

    threads: int = 1
    whole: dict[int, Any] = field(default_factory=dict)
    _rows: dict[tuple[int, int], OrderedRows] = field(default_factory=dict)
    _logits: dict[tuple[int, int], tuple[int, StoredLogits]] = field(default_factory=dict)

    def each(self, work: Callable[[int], Value], leaves: Sequence[int]) -> dict[Knot, Value]:
        """Work on every leaf."""
        with ThreadPoolExecutor(self.threads) as pool:
            return {(0, i): v for i, v in zip(leaves, pool.map(work, leaves), strict=True)}

    def rows(self, key: int, leaf: int, n_leaves: int) -> OrderedRows:
        """Return one leaf's rows, in memory where the place's share of them fits."""
        if (key, leaf) not in self._rows:
            whole = self.whole[key]
            a, b = cut(whole.n)[leaf]
            part, share = part_of(whole.rows, a, b), IN_MEMORY_BYTES // n_leaves
            self._rows[key, leaf] = ordered_rows(
                part, whole.y[a:b], whole.scaling, whole.kept, limit=share
            )
        return self._rows[key, leaf]

    def logits(self, key: int, leaf: int, n_leaves: int, passing: Passing) -> StoredLogits:
        """Return the logits of a pass over one leaf; nobody changes them."""
        number, made = self._logits.get((key, leaf), (-1, None))
        if made is None or number != passing.number:
            made = StoredLogits(self.rows(key, leaf, n_leaves), passing.stack, _Alone())
            self._logits[key, leaf] = passing.number, made
        return made

    def gradient(self, key: int, leaf: int, n_leaves: int, passing: Passing) -> FloatArray:
        """Sum residual times row; the logits become residuals and are let go."""
        logits = self.logits(key, leaf, n_leaves, passing)
        del self._logits[key, leaf]
        for i, b in passing.settled.items():
            logits.to_residuals(i, b)
        return logits.gradient_sum()

    def forget(self, live: Sequence[int]) -> None:
        """Let go of what nobody will ask for again."""
        self.whole = {key: value for key, value in self.whole.items() if key in live}
        self._rows = {key: value for key, value in self._rows.items() if key[0] in live}
        self._logits = {key: value for key, value in self._logits.items() if key[0] in live}


# --- questions: (holder, key, leaves, ...) -> knots of the tree ----------------------------------
def sums_of(
    holder: Holder, key: int, leaves: Sequence[int], stack: Stack, wanted: NDArray[np.bool_]
) -> dict[Knot, Sums]:
    """Make a pass."""

    def work(leaf: int) -> Sums:
        rows = holder.rows(key, leaf, len(leaves))
        return cpu_passes.sums_over(rows, stack, wanted, _Alone())

    return climb(holder.each(work, leaves), add_sums)


def classes(
    holder: Holder, key: int, leaves: Sequence[int], stack: Stack
) -> dict[Knot, NDArray[np.int32]]:
    """Find the class of every row under every head."""
    return holder.each(
        lambda i: cpu_passes.classes_of(holder.rows(key, i, len(leaves)), stack, _Alone()), leaves
    )


def about_logits(
    holder: Holder,
    key: int,
    leaves: Sequence[int],
    passing: Passing,
    about: Callable[[StoredLogits], Sums],
) -> dict[Knot, Sums]:
    """Ask something of the logits of a pass, and add up."""
    found = holder.each(lambda i: about(holder.logits(key, i, len(leaves), passing)), leaves)
    return climb(found, add_sums)


def moments_of(i: int, b: NDArray[np.float64], logits: StoredLogits) -> Sums:
    """Sum a head's cross-entropies and probabilities."""
    loss, mean = logits.moments(i, b)
    return np.array([loss]), mean


def square_of(i: int, b: NDArray[np.float64], logits: StoredLogits) -> Sums:
    """Sum p p' of a head."""
    return (logits.square(i, b),)


def gradient(holder: Holder, key: int, leaves: Sequence[int], passing: Passing) -> dict[Knot, Sums]:
    """Sum residual times row, of heads that are all settled."""
    return climb(
        holder.each(lambda i: (holder.gradient(key, i, len(leaves), passing),), leaves), add_sums
    )


def columns(
    holder: Holder, key: int, leaves: Sequence[int], shift: NDArray[np.float64]
) -> dict[Knot, Sums]:
    """Sum columns and their squares, off a shift."""
    rows = holder.whole[key]
    edges = cut(int(rows.shape[0]))

    def work(leaf: int) -> Sums:
        total, square = np.zeros_like(shift), np.zeros_like(shift)
        for start in range(*edges[leaf], _CHUNK):
            block = np.asarray(rows[start : min(start + _CHUNK, edges[leaf][1])])
            refuse_nonfinite(block, start)
            centred = block - shift
            total += centred.sum(axis=0)
            square += np.einsum("ij,ij->j", centred, centred)
        return total, square

    return climb(holder.each(work, leaves), add_sums)


def second(holder: Holder, key: int, leaves: Sequence[int], scaling: Scaling) -> dict[Knot, Sums]:
    """Sum products of standardised columns, of every so-manieth chunk."""
    rows = holder.whole[key]
    n, d = int(rows.shape[0]), int(rows.shape[1])
    edges, every = cut(n), every_of(n, d)

    def work(leaf: int) -> Sums:
        total = np.zeros((d, d), np.float32, order="F")
        used, room = 0, np.empty((min(n, _CHUNK), d), np.float32)
        for a in range(*edges[leaf], _CHUNK):
            if a // _CHUNK % every == 0:
                b = min(a + _CHUNK, n)
                standardised_columns(rows[a:b], np.arange(d), scaling, room[: b - a])
                total = ssyrk(1.0, room[: b - a].T, beta=1.0, c=total, overwrite_c=1)
                used += b - a
        return total, np.array([used])

    return climb(holder.each(work, leaves), add_sums)


def leaf_moments(
    holder: Holder, key: int, leaves: Sequence[int], labels: IntArray | None, n_classes: int | None
) -> dict[Knot, Moments]:
    """Make moments, and merge them."""
    rows = holder.whole[key]
    edges = cut(int(rows.shape[0]))

    def work(leaf: int) -> Moments:
        a, b = edges[leaf]
        own = None if labels is None else labels[a:b]
        return moments(Span(rows, a, b), own, n_classes=n_classes)

    return climb(holder.each(work, leaves), Moments.merge)
