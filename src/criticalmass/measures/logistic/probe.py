"""The measure ``logistic``: per subset, strength chosen on validation rows, then a proved fit.

Strengths race. They are fitted coarsely on the training rows that are not validation rows, from
the strongest penalty downwards, as long as weakening it still pays: gains in validation accuracy
shrink from one step in log l2 to the next, at least as fast as they did before, and gains under
half a standard error are within the noise of the choice. The best wins, or the strongest penalty
that ties with it (within a twentieth of a standard error), and is fitted on all training rows to
the asked tolerance, starting from where the race left it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, RowSubset
from criticalmass.measures.logistic.certificate import Certificate
from criticalmass.measures.logistic.device import Crew, check_device, crew_for
from criticalmass.measures.logistic.fit_probes import check_effort, check_strengths, fit_certified
from criticalmass.measures.logistic.lbfgs import Problem
from criticalmass.measures.logistic.preconditioner import Whitening
from criticalmass.measures.logistic.solver import Effort, classify, fit
from criticalmass.measures.logistic.training_rows import HeldRows, OrderedRows, ordered_rows
from criticalmass.measures.probes.task import LinearHead, ProbeScores, ProbeTask, compact_labels
from criticalmass.measures.scaling import Scaling

# Ties, as a share of the step that counts: wider ones cost .002 of accuracy on 5,000 samples.
_TIE = 0.1
# How many of the strongest penalties, all cheap to fit, share the first round.
_OPENING = 2


@dataclass(frozen=True)
class LogisticProtocol:
    """How a logistic probe is fitted and its strength chosen.

    Parameters
    ----------
    l2s: strengths that compete, any order.
    tol: certified relative gap of the final fit.
    coarse: estimated relative gap of the fits that race.
    patience: steps in validation accuracy that count, in its standard errors.
    max_passes: passes after which a final fit ends as ``not_converged``.
    device: where the passes are made, as for `fit_probes`; no part of what is computed.
    """

    l2s: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    tol: float = 1e-4
    coarse: float = 1e-2
    patience: float = 0.5
    max_passes: int = 2000
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check strengths, tolerances and the spelling of the device."""
        check_strengths(self.l2s)
        check_effort(self.tol, self.max_passes)
        check_device(self.device)


@dataclass(frozen=True, eq=False)
class _Data:
    """One order's rows: those fitted in the race, those it is judged on, and all of them."""

    fitted: OrderedRows
    judged: OrderedRows
    whole: OrderedRows
    whitening: Whitening


@dataclass(eq=False)
class _Race:
    """The strengths tried so far at one size, in order of falling strength."""

    k: int
    problems: list[Problem] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    n_judged: int = 0

    def step(self, patience: float) -> float:
        """Return the smallest step in accuracy that counts."""
        best = max(self.accuracy)
        return patience * math.sqrt(best * (1 - best) / max(1, self.n_judged))

    def may_gain(self, patience: float) -> bool:
        """Whether the next weaker penalty is expected to gain a step that counts."""
        if len(self.accuracy) < 2:
            return True
        gains = np.diff(self.accuracy)
        expected = float(gains[-1])
        if len(gains) > 1 and gains[-2] > 0:
            expected *= min(1.0, abs(expected) / float(gains[-2])) ** 2
        return expected >= self.step(patience)

    def winner(self, patience: float) -> Problem:
        """Return the strongest penalty that is as good as the best."""
        bar = max(self.accuracy) - _TIE * self.step(patience)
        return next(p for p, a in zip(self.problems, self.accuracy, strict=True) if a >= bar)


def logistic(task: ProbeTask, *, protocol: LogisticProtocol | None = None) -> ProbeScores:
    """Fit and score logistic probes on every prefix of every order of a task.

    Parameters
    ----------
    task: data, orders and sizes; classes that no training row has are never predicted.
    protocol: strengths and tolerances.

    Returns
    -------
    Predictions and heads and, per fit, the chosen strength, the certified relative gap, passes
    over the training rows (the race's share for that size included) and seconds.
    """
    protocol = protocol or LogisticProtocol()
    present, ids = np.unique(task.y_train, return_inverse=True)
    scores = _empty_scores(task)
    learned = []
    with crew_for(protocol.device) as crew:
        scaling = crew.scaling(task.x_train)
        moment = crew.moment(task.x_train, scaling)
        for s in range(task.n_seeds):
            began = time.perf_counter()
            kept = task.orders[s][: task.sizes[-1]]
            whitening = crew.whitening(np.ascontiguousarray(moment[np.ix_(kept, kept)]))
            data = _arrange(task, ids.astype(np.int64), scaling, kept, whitening)
            winners, proofs = _run_seed(task, data, present.size, protocol, crew)
            heads = [(p.weights, p.intercepts) for p in winners]
            del data
            test = _test_rows(task, scaling, kept)
            found = present[classify(test, heads, crew)]
            learned.append(tuple(_raw_head(p, scaling, kept, present) for p in winners))
            _record(scores, s, winners, proofs, protocol)
            scores.predictions[s] = compact_labels(found, task.n_classes)
            scores.seconds[s] = (time.perf_counter() - began) / len(task.sizes)
    return replace(scores, heads=tuple(learned))


def _run_seed(
    task: ProbeTask, data: _Data, n_classes: int, protocol: LogisticProtocol, crew: Crew
) -> tuple[list[Problem], list[Certificate]]:
    prior = _prior(data.whole, n_classes)
    if task.validation.any() and len(protocol.l2s) > 1:
        winners = _race(task.sizes, data, n_classes, protocol, crew)
        for problem in winners:
            problem.restart(prior)
    else:
        winners = [Problem(k, max(protocol.l2s), prior) for k in task.sizes]
    effort = Effort(protocol.tol, protocol.max_passes)
    return winners, fit_certified(data.whole, winners, data.whitening, effort, crew)


def _race(
    sizes: Sequence[int], data: _Data, n_classes: int, protocol: LogisticProtocol, crew: Crew
) -> list[Problem]:
    """Return the winning problem of every size, as far as the race brought it."""
    strengths = sorted(protocol.l2s, reverse=True)
    prior = _prior(data.fitted, n_classes)
    races = [_Race(k, n_judged=data.judged.n) for k in sizes]
    for batch in [strengths[:_OPENING], *([l2] for l2 in strengths[_OPENING:])]:
        running = [r for r in races if r.may_gain(protocol.patience)]
        new = [(race, Problem(race.k, l2, prior)) for race in running for l2 in batch]
        if not new:
            break
        problems = [p for _, p in new]
        for race, problem in new:
            if race.problems:
                problem.continue_from(race.problems[-1])
        effort = Effort(protocol.coarse, protocol.max_passes)
        fit(data.fitted, problems, data.whitening, effort, crew)
        found = classify(data.judged, [(p.weights, p.intercepts) for p in problems], crew)
        for (race, problem), labels in zip(new, found, strict=True):
            race.problems.append(problem)
            race.accuracy.append(float((labels == data.judged.y).mean()))
    return [race.winner(protocol.patience) for race in races]


def _arrange(
    task: ProbeTask,
    ids: NDArray[np.int64],
    scaling: Scaling,
    kept: NDArray[np.intp],
    whitening: Whitening,
) -> _Data:
    fitted, judged = np.flatnonzero(~task.validation), np.flatnonzero(task.validation)
    # Fitted rows first, so that the race reads a leading part of the same memory.
    rank = np.concatenate([fitted, judged])
    whole = ordered_rows(task.x_train, ids, scaling, kept, rank=rank)
    if isinstance(whole, HeldRows):
        x, y, cut = whole.x, whole.y, fitted.size
        head, tail = HeldRows(x[:cut], y[:cut]), HeldRows(x[cut:], y[cut:])
        return _Data(head, tail, HeldRows(x, y), whitening)

    def part(index: NDArray[np.intp]) -> OrderedRows:
        rows: Rows = RowSubset(task.x_train, index)
        return ordered_rows(rows, ids[index], scaling, kept, limit=0)

    return _Data(part(fitted), part(judged), whole, whitening)


def _test_rows(task: ProbeTask, scaling: Scaling, kept: NDArray[np.intp]) -> OrderedRows:
    return ordered_rows(task.x_test, np.zeros(task.n_test, np.int64), scaling, kept)


def _raw_head(
    problem: Problem, scaling: Scaling, kept: NDArray[np.intp], present: NDArray[np.int64]
) -> LinearHead:
    """Return a fit's head as it applies to raw columns."""
    mine = kept[: problem.weights.shape[1]]
    coef = problem.weights / scaling.scale[mine]
    return LinearHead(
        coef.astype(np.float32), problem.intercepts - coef @ scaling.mean[mine], present
    )


def _prior(rows: OrderedRows, n_classes: int) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.bincount(rows.y, minlength=n_classes) / rows.n
    return share


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
    winners: Sequence[Problem],
    proofs: Sequence[Certificate],
    protocol: LogisticProtocol,
) -> None:
    for j, (problem, proof) in enumerate(zip(winners, proofs, strict=True)):
        scores.l2[s, j], scores.gap[s, j] = problem.l2, proof.relative
        scores.passes[s, j] = problem.passes
        if proof.relative > protocol.tol:
            scores.status[s, j] = "not_converged"
