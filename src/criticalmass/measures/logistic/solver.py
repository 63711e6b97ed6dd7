"""Fit many softmax problems of one order in shared passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.device import PassExecutor
from criticalmass.measures.logistic.lbfgs import Evaluation, SoftmaxProblem
from criticalmass.measures.logistic.preconditioner import Preconditioner
from criticalmass.measures.logistic.stacked_heads import Head, StackedHeads
from criticalmass.measures.logistic.training_rows import OrderedRows


@dataclass(frozen=True)
class StoppingRule:
    """When a fit ends.

    Parameters
    ----------
    tol: gap over objective at which a problem is finished.
    max_passes: passes over the rows after which a problem ends unfinished.
    """

    tol: float
    max_passes: int


def fit_problems(
    rows: OrderedRows,
    problems: Sequence[SoftmaxProblem],
    preconditioner: Preconditioner,
    rule: StoppingRule,
    executor: PassExecutor,
) -> None:
    """Fit all problems in place; each ends within its tolerance, stalled, or out of passes.

    Parameters
    ----------
    rows: the training rows in the order's columns.
    problems: fits on prefixes of that order; each continues from its current state.
    preconditioner: of that order.
    rule: when to stop; the tolerance is compared with the estimated gap.
    executor: makes the passes.
    """
    waiting = deque(sorted(problems, key=lambda p: -p.k))
    live: list[SoftmaxProblem] = []
    passes_before = {id(p): p.passes for p in problems}
    _make_first_pass(rows, problems, preconditioner, executor)
    while waiting or live:
        while waiting and _has_capacity(live, waiting[0].n_classes, executor):
            live.append(waiting.popleft())
        live.sort(key=lambda p: -p.k)
        n_live = len(live)
        live = [p for p in live if not _is_finished(p, rule, passes_before[id(p)])]
        if live and (len(live) == n_live or not waiting):
            _make_pass(rows, live, preconditioner, executor)


def _make_pass(
    rows: OrderedRows,
    live: Sequence[SoftmaxProblem],
    preconditioner: Preconditioner,
    executor: PassExecutor,
) -> None:
    """Evaluate the trial points of all live problems and update each problem."""
    with_square = np.array([p.needs_square for p in live])
    heads = StackedHeads.from_heads([p.trial() for p in live])
    evaluations = executor.evaluate(rows, heads, with_square)
    executor.each(lambda i: live[i].update(evaluations[i], preconditioner), len(live))


def _make_first_pass(
    rows: OrderedRows,
    problems: Sequence[SoftmaxProblem],
    preconditioner: Preconditioner,
    executor: PassExecutor,
) -> None:
    """Evaluate all problems that start from zero with one pass for the widest of them.

    At W = 0 all subsets have the same probabilities, so the gradient of the widest problem
    contains the gradients of all others as prefixes.
    """
    new = sorted((p for p in problems if p.is_at_zero), key=lambda p: -p.k)
    if len(new) < 2:
        return
    heads = StackedHeads.from_heads([new[0].trial()])
    widest = executor.evaluate(rows, heads, np.array([True]))[0]

    def update(i: int) -> None:
        p = new[i]
        weights = np.ascontiguousarray(widest.weight_gradient[:, : p.k])
        p.update(
            Evaluation(widest.loss, weights, widest.intercept_gradient, widest.square),
            preconditioner,
        )

    executor.each(update, len(new))


def _has_capacity(live: Sequence[SoftmaxProblem], n_classes: int, executor: PassExecutor) -> bool:
    """Whether a pass has capacity for one more problem."""
    if not live:
        return True
    n_columns = (len(live) + 1) * n_classes
    return n_classes < executor.single_classes and n_columns <= executor.max_columns


def _is_finished(problem: SoftmaxProblem, rule: StoppingRule, passes_before: int) -> bool:
    if problem.stalled or problem.passes - passes_before >= rule.max_passes:
        return True
    return problem.passes > 0 and problem.relative_estimate() <= rule.tol


def classify(rows: OrderedRows, heads: Sequence[Head], executor: PassExecutor) -> NDArray[np.int32]:
    """Predict the class of every row under every head, (n_heads, n) int32, heads in any order."""
    by_size = sorted(range(len(heads)), key=lambda i: -heads[i][0].shape[1])
    n_classes = heads[0][0].shape[0]
    out = np.empty((len(heads), rows.n), np.int32)
    group_size = max(1, executor.max_columns // n_classes)
    for start in range(0, len(by_size), group_size):
        group = by_size[start : start + group_size]
        stacked = StackedHeads.from_heads([heads[i] for i in group])
        out[np.array(group)] = executor.classify(rows, stacked)
    return out
