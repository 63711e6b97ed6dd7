"""True gaps: how far fits are above the optimum, and the tolerance that a peer needs for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers import Head, Peer, objective
from benchmarks.problems import Labels, Matrix, SearchTask
from benchmarks.timing import log
from criticalmass.measures.logistic.fit_probes import fit_probes

TARGET = 1e-6
# Largest entry of the gradient at which a peer stops, loosest first.
PEER_TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)
OUR_TOLERANCES = (1e-5, 5e-6, 3e-6, 2e-6, 1e-6, 5e-7)
_PLATEAU_TOL = 1e-6
_REFERENCE_TOL, _REFERENCE_PASSES = 1e-7, 600


@dataclass(frozen=True)
class Tolerance:
    """The tolerance of a fitter for each strength, and the largest true gap with it.

    Attributes
    ----------
    by_l2: l2 -> tolerance.
    largest_gap: largest true relative gap on the calibration problems.
    """

    by_l2: Mapping[float, float]
    largest_gap: float

    def describe(self) -> str:
        """Return the tolerances and the gap as text."""
        tolerances = ", ".join(f"{tol:g} at l2={l2:g}" for l2, tol in self.by_l2.items())
        return f"tol {tolerances}; largest gap on the calibration problems {self.largest_gap:.1e}"


def lower_bound(x: Matrix, y: Labels, l2: float) -> float:
    """Return a lower bound on the optimum: a certified objective minus its certified gap."""
    k = x.shape[1]
    fits = fit_probes(
        x, y, np.arange(k), [k], [l2], tol=_REFERENCE_TOL, max_passes=_REFERENCE_PASSES
    )
    return float(fits.objective[0, 0, 0] - fits.gap[0, 0, 0])


def relative_gap(x: Matrix, y: Labels, head: Head, l2: float, bound: float) -> float:
    """Return an upper bound on the relative gap of a fit, from a lower bound on the optimum."""
    value = objective(x, y, head, l2)
    return (value - bound) / bound


@dataclass(frozen=True, eq=False)
class CalibrationProblems:
    """Problems for calibrating tolerances: order 0, a few sizes, every strength.

    Attributes
    ----------
    task: the data.
    sizes: numbers of neurons.
    lower_bounds: (size, l2) -> lower bound on the optimum.
    """

    task: SearchTask
    sizes: tuple[int, ...]
    lower_bounds: Mapping[tuple[int, float], float]

    @classmethod
    def from_task(cls, task: SearchTask, n_sizes: int = 4) -> CalibrationProblems:
        """Choose sizes from the smallest to the whole layer and bound their optima."""
        indices = np.unique(np.linspace(0, len(task.sizes) - 1, n_sizes).round().astype(int))
        sizes = tuple(task.sizes[i] for i in indices)
        log(f"reference fits at sizes {sizes}")
        fits = fit_probes(
            task.x_fit,
            task.y_fit,
            task.orders[0],
            sizes,
            task.l2s,
            tol=_REFERENCE_TOL,
            max_passes=_REFERENCE_PASSES,
        )
        lower = fits.objective[0] - fits.gap[0]
        lower_bounds = {
            (k, l2): float(lower[j, i])
            for j, k in enumerate(sizes)
            for i, l2 in enumerate(task.l2s)
        }
        return cls(task, sizes, lower_bounds)

    def rows(self, size: int) -> Matrix:
        """Return the rows for fitting, with the first ``size`` columns of order 0."""
        return np.ascontiguousarray(self.task.x_fit[:, self.task.orders[0][:size]])


def calibrate(problems: CalibrationProblems, peer: Peer) -> Tolerance:
    """Find the loosest tolerance, per strength, that reaches the target at every size.

    If none does, because of float32, it is the loosest one that is as good as the best one.
    """
    by_l2: dict[float, float] = {}
    largest_gap, index = 0.0, 0
    for l2 in problems.task.l2s:
        for k in problems.sizes:
            index, gap = _calibrate_problem(problems, peer, (k, l2), index)
            largest_gap = max(largest_gap, gap)
        by_l2[l2] = PEER_TOLERANCES[index]
        log(f"{peer.name}: l2={l2:g} needs tol={by_l2[l2]:g}")
    return Tolerance(by_l2, largest_gap)


def _calibrate_problem(
    problems: CalibrationProblems, peer: Peer, problem: tuple[int, float], first: int
) -> tuple[int, float]:
    """Return the index of the tolerance that a problem needs, at least ``first``, and its gap."""
    size, l2 = problem
    x, y = problems.rows(size), problems.task.y_fit
    gaps: list[float] = []
    for tol in PEER_TOLERANCES[first:]:
        head = peer.fit(x, y, l2, tol)
        gaps.append(relative_gap(x, y, head, l2, problems.lower_bounds[problem]))
        if gaps[-1] <= TARGET:
            return first + len(gaps) - 1, gaps[-1]
        # A loose tolerance may change nothing on a small problem. If a tight one changes nothing,
        # the gap is at its minimum.
        if tol <= _PLATEAU_TOL and len(gaps) > 2 and gaps[-1] > 0.9 * gaps[-3]:
            break
    as_good = next(i for i, gap in enumerate(gaps) if gap <= 1.1 * min(gaps))
    log(f"{peer.name}: never within {TARGET:g} at size {size}, l2={l2:g}: {min(gaps):.1e}")
    return first + as_good, gaps[as_good]


def calibrate_ours(problems: CalibrationProblems) -> Tolerance:
    """Find our loosest certified tolerance with all true gaps within the target."""
    task, largest_gap, tol = problems.task, np.inf, OUR_TOLERANCES[0]
    for tol in OUR_TOLERANCES:
        fits = fit_probes(task.x_fit, task.y_fit, task.orders[0], problems.sizes, task.l2s, tol=tol)
        gaps = [
            relative_gap(
                problems.rows(k),
                task.y_fit,
                Head(*fits.heads[0][j][i]),
                l2,
                problems.lower_bounds[k, l2],
            )
            for j, k in enumerate(problems.sizes)
            for i, l2 in enumerate(task.l2s)
        ]
        largest_gap = max(gaps)
        if largest_gap <= TARGET:
            break
    log(f"ours: certified tol={tol:g} leaves gaps up to {largest_gap:.1e}")
    return Tolerance(dict.fromkeys(task.l2s, tol), largest_gap)


@dataclass(frozen=True, eq=False)
class FinalFit:
    """The final fit of a search for one subset: the first ``size`` columns of order ``seed``."""

    seed: int
    size: int
    l2: float
    head: Head


class LowerBounds:
    """Lower bounds on the optima of final fits; each is computed once."""

    def __init__(self, task: SearchTask) -> None:
        self._task = task
        self._cache: dict[tuple[int, int, float], float] = {}

    def largest_gap(self, finals: Sequence[FinalFit]) -> float:
        """Return the largest true gap of final fits, on all training rows."""
        y, largest = self._task.layer.y_train, -np.inf
        for f in finals:
            x = np.ascontiguousarray(self._task.x_train[:, self._task.orders[f.seed][: f.size]])
            key = (f.seed, f.size, f.l2)
            if key not in self._cache:
                self._cache[key] = lower_bound(x, y, f.l2)
            largest = max(largest, relative_gap(x, y, f.head, f.l2, self._cache[key]))
        return float(largest)
