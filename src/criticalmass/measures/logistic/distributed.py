"""Passes over rows that are spread over several places, summed in an order of their own.

Rows are cut into `LEAVES` parts, whose sums are added two by two: a tree. A place holds some
parts next to each other and adds up what lies below one knot of the tree by itself; the rest is
added here. So neither the number of places nor who is first changes a byte, and what travels is
one packed gradient per place or a few. What a place holds can be made again at any time, so that
one that dies is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import count
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.moments import IntArray, Moments, moments, spreading
from criticalmass.core.rows import Rows
from criticalmass.core.threads import thread_count
from criticalmass.measures.logistic import cpu_passes, row_shards
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.row_shards import (
    Holder,
    Knot,
    Passing,
    Sums,
    add_sums,
    climb,
    shares,
)
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import OrderedRows, mirrored
from criticalmass.measures.scaling import Scaling, scale_of
from criticalmass.storage.features import Features


class Places(Protocol):
    """Where leaves are: every place has a `Holder`."""

    def ask(
        self, key: int, whole: Any, question: Callable[..., Any], live: Sequence[int]
    ) -> list[dict[Knot, Any]]:
        """Have every place answer ``question(holder, key, own leaves)``, and gather that.

        Parameters
        ----------
        key: names what is cut into leaves.
        whole: that; a place gets it once.
        live: keys that may be asked for again.
        """
        ...


class SpreadCrew:
    """The crew of passes over rows that are elsewhere.

    Parameters
    ----------
    places: where the rows are.
    """

    most_columns = 640
    single_classes = 64

    def __init__(self, places: Places) -> None:
        self._places = places
        self._keys: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._features: dict[Any, int] = {}
        self._kept: list[Features] = []
        self._numbers = count()
        self._lock = Lock()

    def __enter__(self) -> SpreadCrew:
        """Do nothing: it outlives single fits."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i, in threads of this process."""
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(thread_count()) as pool:
            list(pool.map(work, range(n)))

    def whitening(self, moment: FloatArray) -> Whitening:
        """Return the preconditioner of a second moment, (k, k)."""
        return Whitening(moment)

    def ask(self, whole: Any, question: Callable[..., Any]) -> dict[Knot, Any]:
        """Ask all places, and gather what they say."""
        with self._lock:
            # Features of a store are known by their place; what is made of them by itself.
            known: Any = self._keys
            name = whole
            if isinstance(whole, Features):
                known, name = self._features, whole.origin or id(whole)
            if name not in known:
                known[name] = next(self._numbers)
                if isinstance(name, int):
                    self._kept.append(whole)  # nothing else may take its place in memory
            key, live = known[name], [*self._keys.values(), *self._features.values()]
        found: dict[Knot, Any] = {}
        for told in self._places.ask(key, whole, question, live):
            found |= told
        return found

    def total(self, whole: Any, question: Callable[..., Any], add: Any = add_sums) -> Any:
        """Ask all places for sums, and add them up in the tree's order."""
        found = climb(self.ask(whole, question), add)
        # Leaves without rows leave knots without a neighbour.
        total = reduce(add, (found[knot] for knot in sorted(found, key=_first_leaf)))
        if isinstance(total, tuple):
            return tuple(np.require(part, requirements="W") for part in total)
        return total

    def scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        shift = np.asarray(rows[0:1], dtype=np.float64)[0]
        total, square = self.total(rows, partial(_ask, row_shards.columns, shift=shift))
        n = int(rows.shape[0])
        mean = shift + total / n
        variance = np.maximum(square / n - (total / n) ** 2, 0.0)
        return Scaling(mean, scale_of(mean, variance, n))

    def moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns, (d, d)."""
        total, used = self.total(rows, partial(_ask, row_shards.second, scaling=scaling))
        return mirrored(total, int(used[0]))

    def moments(self, rows: Any, labels: IntArray | None, n_classes: int | None) -> Moments:
        """Return the moments of features of a store; of other rows, made here."""
        if not isinstance(rows, Features):
            with spreading(None):
                return moments(rows, labels, n_classes=n_classes)
        question = partial(_ask, row_shards.leaf_moments, labels=labels, n_classes=n_classes)
        found: Moments = self.total(rows, question, Moments.merge)
        return found

    def evaluate(
        self, rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return what it found for every head of the stack."""
        sums = self.total(rows, partial(_ask, row_shards.sums_of, stack=stack, wanted=wanted))
        return cpu_passes.evaluations(sums, stack, wanted, rows.n)

    def classify(self, rows: OrderedRows, stack: Stack) -> NDArray[np.int32]:
        """Return the class of every row under every head, (n_heads, n)."""
        found = self.ask(rows, partial(_ask, row_shards.classes, stack=stack))
        return np.concatenate([found[knot] for knot in sorted(found)], axis=1)

    def logits(self, rows: OrderedRows, stack: Stack) -> SpreadLogits:
        """Make one pass that keeps the logits of all heads where the rows are."""
        return SpreadLogits(self, rows, Passing(next(self._numbers), stack, {}))


class SpreadLogits:
    """Logits of a stack's heads, kept where the rows are."""

    def __init__(self, crew: SpreadCrew, rows: OrderedRows, passing: Passing) -> None:
        self._crew, self._rows, self._passing = crew, rows, passing
        self.n = rows.n

    def _total(self, about: Callable[[cpu_passes.StoredLogits], Sums]) -> Any:
        plain = replace(self._passing, settled={})
        question = partial(_ask, row_shards.about_logits, passing=plain, about=about)
        return self._crew.total(self._rows, question)

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities, (C,)."""
        loss, mean = self._total(partial(row_shards.moments_of, i, b))
        return float(loss[0]), mean

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows, (C, C)."""
        found: NDArray[np.float64] = self._total(partial(row_shards.square_of, i, b))[0]
        return found

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Note the intercepts with which head i's logits become p - y, in `gradient`.

        Until then logits stay as they are: a place that dies makes the same ones again.
        """
        self._passing.settled[i] = b

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row, (n_heads * C, k)."""
        total = self._crew.total(
            self._rows, partial(_ask, row_shards.gradient, passing=self._passing)
        )
        mean: FloatArray = total[0] / np.float32(self.n)
        return mean


@dataclass(frozen=True)
class Here:
    """Places in this process, for trying how the sum is made.

    Attributes
    ----------
    holders: one for each place.
    """

    holders: tuple[Holder, ...]
    # Fits that run side by side ask at once, and a place does one thing at a time.
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    def ask(
        self, key: int, whole: Any, question: Callable[..., Any], live: Sequence[int]
    ) -> list[dict[Knot, Any]]:
        """Ask one place after the other."""
        found = []
        with self._turn:
            for holder, mine in zip(self.holders, shares(whole, len(self.holders)), strict=True):
                holder.whole.setdefault(key, whole)
                found.append(question(holder, key, mine))
                holder.forget(live)
        return found


def _ask(
    question: Callable[..., Any], holder: Holder, key: int, mine: Sequence[int], **more: Any
) -> Any:
    """Put a question with its arguments; a place without leaves has nothing to say."""
    return question(holder, key, mine, **more) if mine else {}


def _first_leaf(knot: Knot) -> int:
    return knot[1] << knot[0]
