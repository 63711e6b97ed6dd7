"""Drives many softmax problems of one order through shared passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.device import Crew
from criticalmass.measures.logistic.lbfgs import Evaluation, Problem
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import OrderedRows


@dataclass(frozen=True)
class Effort:
    """When a fit is good enough, and when it has taken too long.

    Parameters
    ----------
    tol: estimated gap over objective at which a problem retires.
    max_passes: passes over the rows after which it retires unfinished.
    """

    tol: float
    max_passes: int = 1000


def fit(
    rows: OrderedRows,
    problems: Sequence[Problem],
    whitening: Whitening,
    effort: Effort,
    crew: Crew,
    *,
    tick: Callable[[int], None] | None = None,
) -> None:
    """Fit all problems in place; each ends within its tolerance, stalled, or out of passes.

    Parameters
    ----------
    rows: the training rows in the order's columns.
    problems: fits on prefixes of that order; their states are continued where they stand.
    whitening: of that order.
    effort: when to stop.
    crew: who makes the passes.
    tick: called with the number of problems that retired.
    """
    waiting = deque(sorted(problems, key=lambda p: -p.k))
    live: list[Problem] = []
    started = {id(p): p.passes for p in problems}
    _start_together(rows, problems, whitening, crew)
    while waiting or live:
        while waiting and _fits(live, waiting[0].n_classes, crew):
            live.append(waiting.popleft())
        live.sort(key=lambda p: -p.k)
        before = len(live)
        live = [p for p in live if not _finished(p, effort, started[id(p)])]
        if tick is not None and before > len(live):
            tick(before - len(live))
        if live and (len(live) == before or not waiting):
            _step(rows, live, whitening, crew)


def _step(rows: OrderedRows, live: Sequence[Problem], whitening: Whitening, crew: Crew) -> None:
    wanted = np.array([p.wants_square for p in live])
    found = crew.evaluate(rows, Stack.of([p.trial() for p in live]), wanted)
    crew.each(lambda i: live[i].take(found[i], whitening), len(live))


def _start_together(
    rows: OrderedRows, problems: Sequence[Problem], whitening: Whitening, crew: Crew
) -> None:
    """Give all problems that start from zero their first gradient from one narrow pass.

    At W = 0 every subset sees the same probabilities, so the gradient of the widest one holds
    those of all others as prefixes.
    """
    new = sorted((p for p in problems if p.starts_from_zero), key=lambda p: -p.k)
    if len(new) < 2:
        return
    first = crew.evaluate(rows, Stack.of([new[0].trial()]), np.array([True]))[0]

    def take(i: int) -> None:
        p = new[i]
        part = np.ascontiguousarray(first.weights[:, : p.k])
        p.take(Evaluation(first.loss, part, first.intercepts, first.square), whitening)

    crew.each(take, len(new))


def _fits(live: Sequence[Problem], n_classes: int, crew: Crew) -> bool:
    if not live:
        return True
    return n_classes < crew.single_classes and (len(live) + 1) * n_classes <= crew.most_columns


def _finished(problem: Problem, effort: Effort, passes_before: int) -> bool:
    if problem.stalled or problem.passes - passes_before >= effort.max_passes:
        return True
    return problem.passes > 0 and problem.relative_estimate() <= effort.tol


def classify(
    rows: OrderedRows, heads: Sequence[tuple[FloatArray, NDArray[np.float64]]], crew: Crew
) -> NDArray[np.int32]:
    """Predict the class of every row under every head, (n_heads, n) int32, heads in any order."""
    by_size = sorted(range(len(heads)), key=lambda i: -heads[i][0].shape[1])
    n_classes = heads[0][0].shape[0]
    out = np.empty((len(heads), rows.n), np.int32)
    at_once = max(1, crew.most_columns // n_classes)
    for first in range(0, len(by_size), at_once):
        group = by_size[first : first + at_once]
        out[np.array(group)] = crew.classify(rows, Stack.of([heads[i] for i in group]))
    return out
