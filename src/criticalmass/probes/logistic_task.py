"""The measure ``logistic``: per subset, strength chosen on validation rows, then a proved fit.

Strengths race. All are fitted coarsely on the training rows that are not validation rows, from
the strongest penalty downwards, as long as a weaker one may still win; those within a margin of
the best are fitted further; the winner is fitted on all training rows to the asked tolerance,
starting from where the race left it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from criticalmass.probes.certificate import Certificate
from criticalmass.probes.engine import Crew, Effort, classify, fit
from criticalmass.probes.lbfgs import Problem
from criticalmass.probes.logistic import check_effort, check_strengths, fit_certified
from criticalmass.probes.rows import HeldRows, OrderedRows, ordered_rows, second_moment
from criticalmass.probes.standardise import RowSubset, Scaling, column_scaling
from criticalmass.probes.task import ProbeScores, ProbeTask, Rows, compact_labels
from criticalmass.probes.whitening import Whitening


@dataclass(frozen=True)
class LogisticProtocol:
    """How a logistic probe is fitted and its strength chosen.

    Parameters
    ----------
    l2s: strengths that compete, any order.
    tol: certified relative gap of the final fit.
    coarse, fine: estimated relative gaps of the race's two rounds.
    margin: how far, in validation accuracy, a strength may trail the best and stay in the race.
    max_passes: passes after which a final fit ends as ``not_converged``.
    """

    l2s: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    tol: float = 1e-4
    coarse: float = 1e-2
    fine: float = 1e-3
    margin: float = 0.01
    max_passes: int = 2000

    def __post_init__(self) -> None:
        """Check strengths and tolerances."""
        check_strengths(self.l2s)
        check_effort(self.tol, self.max_passes)


@dataclass(frozen=True, eq=False)
class _Data:
    """One order's rows: those fitted in the race, those it is judged on, and all of them."""

    fitted: OrderedRows
    judged: OrderedRows
    whole: OrderedRows
    whitening: Whitening


@dataclass(eq=False)
class _Race:
    """The strengths tried so far at one size."""

    k: int
    problems: list[Problem] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)

    def best(self) -> float:
        return max(self.accuracy.values())

    def contenders(self, margin: float) -> list[Problem]:
        bar = self.best() - margin
        return [p for p in self.problems if self.accuracy[id(p)] >= bar]

    def winner(self) -> Problem:
        # Problems stand in order of falling strength: ties go to the stronger penalty.
        return max(self.problems, key=lambda p: self.accuracy[id(p)])


def logistic(task: ProbeTask, *, protocol: LogisticProtocol | None = None) -> ProbeScores:
    """Fit and score logistic probes on every prefix of every order of a task.

    Parameters
    ----------
    task: data, orders and sizes; classes that no training row has are never predicted.
    protocol: strengths and tolerances.

    Returns
    -------
    Predictions and, per fit, the chosen strength, the certified relative gap, passes over the
    training rows (the race's share for that size included) and seconds.
    """
    protocol = protocol or LogisticProtocol()
    present, ids = np.unique(task.y_train, return_inverse=True)
    scaling = column_scaling(task.x_train)
    moment = second_moment(task.x_train, scaling)
    scores = _empty_scores(task)
    with Crew() as crew:
        for s in range(task.n_seeds):
            began = time.perf_counter()
            kept = task.orders[s][: task.sizes[-1]]
            whitening = Whitening(np.ascontiguousarray(moment[np.ix_(kept, kept)]))
            data = _arrange(task, ids.astype(np.int64), scaling, kept, whitening)
            races, proofs = _run_seed(task, data, present.size, protocol, crew)
            heads = [(r.winner().weights, r.winner().intercepts) for r in races]
            del data
            test = _test_rows(task, scaling, kept)
            found = present[classify(test, heads, crew)]
            _record(scores, s, races, proofs, protocol)
            scores.predictions[s] = compact_labels(found, task.n_classes)
            scores.seconds[s] = (time.perf_counter() - began) / len(task.sizes)
    return scores


def _run_seed(
    task: ProbeTask, data: _Data, n_classes: int, protocol: LogisticProtocol, crew: Crew
) -> tuple[list[_Race], list[Certificate]]:
    races = [_Race(k) for k in task.sizes]
    if task.validation.any() and len(protocol.l2s) > 1:
        _race(races, data, n_classes, protocol, crew)
    else:
        prior = _prior(data.whole, n_classes)
        for race in races:
            race.problems = [Problem(race.k, max(protocol.l2s), prior)]
            race.accuracy = {id(race.problems[0]): 0.0}
    winners = [race.winner() for race in races]
    prior = _prior(data.whole, n_classes)
    for problem in winners:
        if problem.passes:
            problem.restart(prior)
    effort = Effort(protocol.tol, protocol.max_passes)
    return races, fit_certified(data.whole, winners, data.whitening, effort, crew)


def _race(
    races: Sequence[_Race], data: _Data, n_classes: int, protocol: LogisticProtocol, crew: Crew
) -> None:
    strengths = sorted(protocol.l2s, reverse=True)
    prior = _prior(data.fitted, n_classes)
    opening = max(1, min(3, len(strengths)))
    running = list(races)
    for round_, batch in enumerate([strengths[:opening], *([v] for v in strengths[opening:])]):
        if round_:
            running = [
                r
                for r in running
                if r.accuracy[id(r.problems[-1])] >= r.best() - protocol.margin / 2
            ]
        new = [(race, Problem(race.k, l2, prior)) for race in running for l2 in batch]
        if not new:
            break
        for race, problem in new:
            race.problems.append(problem)
        _judge(new, data, protocol.coarse, protocol, crew)
    second = []
    for race in races:
        close = race.contenders(protocol.margin)
        if len(close) > 1:
            second += [(race, p) for p in close]
            race.problems = close
    if second:
        _judge(second, data, protocol.fine, protocol, crew)


def _judge(
    entries: Sequence[tuple[_Race, Problem]],
    data: _Data,
    tol: float,
    protocol: LogisticProtocol,
    crew: Crew,
) -> None:
    """Fit problems to a tolerance and note their accuracy on the validation rows."""
    problems = [p for _, p in entries]
    fit(data.fitted, problems, data.whitening, Effort(tol, protocol.max_passes), crew)
    found = classify(data.judged, [(p.weights, p.intercepts) for p in problems], crew)
    truth = np.concatenate([y.copy() for _, y in data.judged.blocks()])
    for (race, problem), labels in zip(entries, found, strict=True):
        race.accuracy[id(problem)] = float((labels == truth).mean())


def _arrange(
    task: ProbeTask,
    ids: NDArray[np.int64],
    scaling: Scaling,
    kept: NDArray[np.intp],
    whitening: Whitening,
) -> _Data:
    whole = ordered_rows(task.x_train, ids, scaling, kept)
    fitted, judged = np.flatnonzero(~task.validation), np.flatnonzero(task.validation)
    if isinstance(whole, HeldRows):
        # Fitted rows first, so that the race reads a leading part of the same memory.
        rank = np.concatenate([fitted, judged])
        x, y = np.ascontiguousarray(whole.x[rank]), whole.y[rank]
        cut = fitted.size
        head, tail = HeldRows(x[:cut], y[:cut]), HeldRows(x[cut:], y[cut:])
        return _Data(head, tail, HeldRows(x, y), whitening)

    def part(index: NDArray[np.intp]) -> OrderedRows:
        rows: Rows = RowSubset(task.x_train, index)
        return ordered_rows(rows, ids[index], scaling, kept, limit=0)

    return _Data(part(fitted), part(judged), whole, whitening)


def _test_rows(task: ProbeTask, scaling: Scaling, kept: NDArray[np.intp]) -> OrderedRows:
    return ordered_rows(task.x_test, np.zeros(task.n_test, np.int64), scaling, kept)


def _prior(rows: OrderedRows, n_classes: int) -> NDArray[np.float64]:
    counts = np.zeros(n_classes)
    for _, y in rows.blocks():
        counts += np.bincount(y, minlength=n_classes)
    share: NDArray[np.float64] = counts / counts.sum()
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
    races: Sequence[_Race],
    proofs: Sequence[Certificate],
    protocol: LogisticProtocol,
) -> None:
    for j, (race, proof) in enumerate(zip(races, proofs, strict=True)):
        scores.l2[s, j], scores.gap[s, j] = race.winner().l2, proof.relative
        scores.passes[s, j] = race.winner().passes
        if proof.relative > protocol.tol:
            scores.status[s, j] = "not_converged"
