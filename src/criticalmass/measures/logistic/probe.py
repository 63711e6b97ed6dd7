"""The measure ``logistic``: choose a strength per subset on validation rows, then a certified fit.

The search fits strengths coarsely on the training rows that are not validation rows, from the
strongest penalty downwards. Small problems, whose fits are cheap (`full_curvature`), are fitted at
all strengths. Others go on as long as a weaker penalty is expected to pay: gains in validation
accuracy shrink from one step in log l2 to the next, somewhat faster than they did before, and gains
under .7 standard errors are within the noise of the choice. The standard error is that of the
difference between two strengths on the same rows, several times smaller than that of an accuracy.
The chosen strength is the strongest one that ties with the best (within a twentieth of a standard
error of the accuracy). It is fitted on all training rows to the requested tolerance, starting from
the weights of the search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import RowSubset
from criticalmass.measures.logistic.certificate import FitCertificate
from criticalmass.measures.logistic.device import PassExecutor, executor_for
from criticalmass.measures.logistic.fit_probes import (
    check_stopping_rule,
    check_strengths,
    fit_certified,
)
from criticalmass.measures.logistic.full_curvature import RowSample
from criticalmass.measures.logistic.lbfgs import SoftmaxProblem
from criticalmass.measures.logistic.preconditioner import Preconditioner
from criticalmass.measures.logistic.solver import StoppingRule, classify, fit_problems
from criticalmass.measures.logistic.training_rows import (
    HeldRows,
    OrderedRows,
    class_shares,
    ordered_rows,
)
from criticalmass.measures.probes.task import LinearHead, ProbeScores, ProbeTask, compact_labels
from criticalmass.measures.scaling import Scaling

# Accuracies within this share of a standard error tie. Wider ties cost .002 of accuracy on 5,000
# samples.
_TIE = 0.05
# Number of the strongest penalties that share the first round; all of them are cheap to fit.
_FIRST_ROUND = 2
# The share of a gain that the next step keeps is this power of the share that it kept itself. At 2,
# searches stopped a step early (accuracies up to .01 lower); at 1, most fit a strength in vain.
_DECAY_POWER = 1.5


@dataclass(frozen=True)
class LogisticProtocol:
    """How a logistic probe is fitted and its strength chosen.

    Parameters
    ----------
    l2s: strengths to search, any order.
    tol: certified relative gap of the final fit.
    coarse: estimated relative gap of the fits of the search.
    patience: smallest relevant gain in validation accuracy, in standard errors of the difference.
    max_passes: passes after which a final fit ends as ``not_converged``.
    """

    l2s: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    tol: float = 1e-4
    coarse: float = 1e-2
    patience: float = 0.7
    max_passes: int = 2000

    def __post_init__(self) -> None:
        """Check strengths and tolerances."""
        check_strengths(self.l2s)
        check_stopping_rule(self.tol, self.max_passes)


@dataclass(frozen=True, eq=False)
class _OrderData:
    """Training rows in one order's columns.

    Parameters
    ----------
    fit_rows: rows on which the search fits.
    validation_rows: rows on which the search scores.
    all_rows: both.
    preconditioner: of the order.
    """

    fit_rows: OrderedRows
    validation_rows: OrderedRows
    all_rows: OrderedRows
    preconditioner: Preconditioner


@dataclass(eq=False)
class _StrengthSearch:
    """The strengths fitted so far at one size, by descending strength.

    Parameters
    ----------
    k: number of columns.
    patience: smallest relevant gain in accuracy, in standard errors of the difference.
    fits_all: whether to fit all strengths.
    problems: one fit per strength.
    hits: per fit, (n_validation,) whether each validation row is classified correctly.
    """

    k: int
    patience: float
    fits_all: bool
    problems: list[SoftmaxProblem] = field(default_factory=list)
    hits: list[NDArray[np.bool_]] = field(default_factory=list)

    def may_improve(self) -> bool:
        """Whether the next weaker penalty is expected to gain enough."""
        if self.fits_all or len(self.hits) < 2:
            return True
        changes = self.hits[-1].astype(np.int8) - self.hits[-2]
        gain, error = float(changes.mean()), float(changes.std()) / math.sqrt(changes.size)
        if len(self.hits) > 2:
            before = float(self.hits[-2].mean() - self.hits[-3].mean())
            gain *= min(1.0, abs(gain) / before) ** _DECAY_POWER if before > 0 else 1.0
        # Without any change the error is 0, and a gain of 0 is none.
        return gain > 0 and gain >= self.patience * error

    def best_problem(self) -> SoftmaxProblem:
        """Return the strongest penalty that ties with the best."""
        accuracies = [float(hits.mean()) for hits in self.hits]
        best = max(accuracies)
        bar = best - _TIE * math.sqrt(best * (1 - best) / self.hits[0].size)
        scored = zip(self.problems, accuracies, strict=True)
        return next(problem for problem, accuracy in scored if accuracy >= bar)


def logistic(task: ProbeTask, *, protocol: LogisticProtocol | None = None) -> ProbeScores:
    """Fit and score logistic probes on every prefix of every order of a task.

    Parameters
    ----------
    task: data, orders and sizes. Classes without training rows are never predicted.
    protocol: strengths and tolerances.

    Returns
    -------
    Predictions and heads and, per fit, the chosen strength, the certified relative gap, passes
    over the training rows (including the search's passes of the chosen fit) and seconds.
    """
    protocol = protocol or LogisticProtocol()
    classes, ids = np.unique(task.y_train, return_inverse=True)
    scores = _empty_scores(task)
    heads = []
    with executor_for(task.compute) as executor:
        scaling = executor.column_scaling(task.x_train)
        moment = executor.second_moment(task.x_train, scaling)
        for s in range(task.n_seeds):
            start_time = time.perf_counter()
            columns = task.orders[s][: task.sizes[-1]]
            preconditioner = executor.make_preconditioner(
                np.ascontiguousarray(moment[np.ix_(columns, columns)])
            )
            data = _split_rows(task, ids.astype(np.int64), scaling, columns, preconditioner)
            problems, certificates = _fit_order(task, data, classes.size, protocol, executor)
            del data
            test_rows = _test_rows(task, scaling, columns)
            labels = classes[classify(test_rows, [p.head for p in problems], executor)]
            heads.append(tuple(_raw_head(p, scaling, columns, classes) for p in problems))
            _record(scores, s, problems, certificates, protocol.tol)
            scores.predictions[s] = compact_labels(labels, task.n_classes)
            scores.seconds[s] = (time.perf_counter() - start_time) / len(task.sizes)
    return replace(scores, heads=tuple(heads))


def _fit_order(
    task: ProbeTask,
    data: _OrderData,
    n_classes: int,
    protocol: LogisticProtocol,
    executor: PassExecutor,
) -> tuple[list[SoftmaxProblem], list[FitCertificate]]:
    """Choose the strength of every size of one order, and fit it on all training rows."""
    prior = class_shares(data.all_rows.y, n_classes)
    if task.validation.any() and len(protocol.l2s) > 1:
        problems = _search_strengths(task.sizes, data, n_classes, protocol, executor)
        for problem in problems:
            problem.restart(prior)
    else:
        problems = [SoftmaxProblem(k, max(protocol.l2s), prior) for k in task.sizes]
    rule = StoppingRule(protocol.tol, protocol.max_passes)
    certificates = fit_certified(data.all_rows, problems, data.preconditioner, rule, executor)
    return problems, certificates


def _search_strengths(
    sizes: Sequence[int],
    data: _OrderData,
    n_classes: int,
    protocol: LogisticProtocol,
    executor: PassExecutor,
) -> list[SoftmaxProblem]:
    """Return the problem with the chosen strength of every size, as the search fitted it."""
    l2s = sorted(protocol.l2s, reverse=True)
    prior = class_shares(data.fit_rows.y, n_classes)
    rule = StoppingRule(protocol.coarse, protocol.max_passes)
    rows = data.validation_rows
    sample = RowSample.of(data.fit_rows, tuple(sizes), n_classes)
    searches = [_StrengthSearch(k, protocol.patience, sample.is_small(k)) for k in sizes]
    for batch in [l2s[:_FIRST_ROUND], *([l2] for l2 in l2s[_FIRST_ROUND:])]:
        active = [search for search in searches if search.may_improve()]
        new = [(search, SoftmaxProblem(search.k, l2, prior)) for search in active for l2 in batch]
        if not new:
            break
        for search, problem in new:
            if search.problems:
                problem.continue_from(search.problems[-1])
        problems = [problem for _, problem in new]
        _use_full_curvature(problems, sample, executor)
        fit_problems(data.fit_rows, problems, data.preconditioner, rule, executor)
        predictions = classify(rows, [p.head for p in problems], executor)
        for (search, problem), labels in zip(new, predictions, strict=True):
            search.problems.append(problem)
            search.hits.append(labels == rows.y)
    return [search.best_problem() for search in searches]


def _use_full_curvature(
    problems: Sequence[SoftmaxProblem], sample: RowSample, executor: PassExecutor
) -> None:
    """Give small problems with a weak penalty their whole Hessian, at their present weights."""
    small = [problem for problem in problems if sample.serves(problem.k, problem.l2)]

    def use(i: int) -> None:
        small[i].use_curvature(sample.curvature(small[i].head, small[i].l2))

    executor.each(use, len(small))


def _split_rows(
    task: ProbeTask,
    ids: NDArray[np.int64],
    scaling: Scaling,
    columns: NDArray[np.intp],
    preconditioner: Preconditioner,
) -> _OrderData:
    """Read the training rows in one order's columns and split off the validation rows."""
    fit_index, validation_index = np.flatnonzero(~task.validation), np.flatnonzero(task.validation)
    # The fit rows come first, so the search reads the leading part of the same memory.
    rank = np.concatenate([fit_index, validation_index])
    limit = task.compute.held_bytes
    all_rows = ordered_rows(task.x_train, ids, scaling, columns, limit=limit, rank=rank)
    if isinstance(all_rows, HeldRows):
        x, y, n_fit = all_rows.x, all_rows.y, fit_index.size
        fit_rows, validation_rows = HeldRows(x[:n_fit], y[:n_fit]), HeldRows(x[n_fit:], y[n_fit:])
        return _OrderData(fit_rows, validation_rows, all_rows, preconditioner)

    def subset(index: NDArray[np.intp]) -> OrderedRows:
        return ordered_rows(RowSubset(task.x_train, index), ids[index], scaling, columns, limit=0)

    return _OrderData(subset(fit_index), subset(validation_index), all_rows, preconditioner)


def _test_rows(task: ProbeTask, scaling: Scaling, columns: NDArray[np.intp]) -> OrderedRows:
    labels, limit = np.zeros(task.n_test, np.int64), task.compute.held_bytes
    return ordered_rows(task.x_test, labels, scaling, columns, limit=limit)


def _raw_head(
    problem: SoftmaxProblem,
    scaling: Scaling,
    columns: NDArray[np.intp],
    classes: NDArray[np.int64],
) -> LinearHead:
    """Return a fit's head for raw columns."""
    own_columns = columns[: problem.k]
    coef = problem.weights / scaling.scale[own_columns]
    intercept = problem.intercepts - coef @ scaling.mean[own_columns]
    return LinearHead(coef.astype(np.float32), intercept, classes)


def _empty_scores(task: ProbeTask) -> ProbeScores:
    grid = task.grid
    return ProbeScores(
        predictions=compact_labels(np.zeros((*grid, task.n_test), np.int64), task.n_classes),
        l2=np.full(grid, np.nan),
        gap=np.full(grid, np.nan),
        passes=np.zeros(grid, np.int32),
        seconds=np.zeros(grid),
        status=np.full(grid, "ok", dtype=object),
    )


def _record(
    scores: ProbeScores,
    s: int,
    problems: Sequence[SoftmaxProblem],
    certificates: Sequence[FitCertificate],
    tol: float,
) -> None:
    """Write the results of one order into the scores."""
    for j, (problem, certificate) in enumerate(zip(problems, certificates, strict=True)):
        scores.l2[s, j], scores.gap[s, j] = problem.l2, certificate.relative
        scores.passes[s, j] = problem.passes
        if certificate.relative > tol:
            scores.status[s, j] = "not_converged"
