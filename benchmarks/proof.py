"""True gaps: how far fits are above the optimum, and which tolerance a peer needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers import Head, Peer, objective
from benchmarks.problems import Labels, Matrix, Search
from benchmarks.timing import tell
from criticalmass.measures.logistic.fit_probes import fit_probes

TARGET = 1e-6
# Largest entry of the gradient at which a peer stops, loosest first.
LADDER = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)
OUR_LADDER = (1e-5, 5e-6, 3e-6, 2e-6, 1e-6, 5e-7)
_FLOOR_FROM = 1e-6
_REFERENCE_TOL, _REFERENCE_PASSES = 1e-7, 600


@dataclass(frozen=True)
class Tolerance:
    """What a fitter was told, per strength, and the largest true gap it left there."""

    told: Mapping[float, float]
    worst: float

    def words(self) -> str:
        """Word it for the notes."""
        told = ", ".join(f"{tol:g} at l2={l2:g}" for l2, tol in self.told.items())
        return f"tol {told}; largest gap on the calibration problems {self.worst:.1e}"


def optimum(x: Matrix, y: Labels, l2: float) -> float:
    """Bound the optimum from below: a certified objective minus its certified gap."""
    k = x.shape[1]
    fits = fit_probes(
        x, y, np.arange(k), [k], [l2], tol=_REFERENCE_TOL, max_passes=_REFERENCE_PASSES
    )
    return float(fits.objective[0, 0, 0] - fits.gap[0, 0, 0])


def gap(x: Matrix, y: Labels, head: Head, l2: float, best: float) -> float:
    """Return (an upper bound on) the relative gap of a fit, given a lower bound on the optimum."""
    value = objective(x, y, head, l2)
    return (value - best) / best


@dataclass(frozen=True, eq=False)
class Bench:
    """Problems on which tolerances are calibrated: order 0, a few sizes, every strength."""

    task: Search
    sizes: tuple[int, ...]
    best: Mapping[tuple[int, float], float]

    @classmethod
    def of(cls, task: Search, n_sizes: int = 4) -> Bench:
        """Choose sizes from the smallest to the whole layer and bound their optima."""
        places = np.unique(np.linspace(0, len(task.sizes) - 1, n_sizes).round().astype(int))
        sizes = tuple(task.sizes[i] for i in places)
        tell(f"reference fits at sizes {sizes}")
        fits = fit_probes(
            task.fit,
            task.y_fit,
            task.orders[0],
            sizes,
            task.l2s,
            tol=_REFERENCE_TOL,
            max_passes=_REFERENCE_PASSES,
        )
        lower = fits.objective[0] - fits.gap[0]
        best = {
            (k, l2): float(lower[j, i])
            for j, k in enumerate(sizes)
            for i, l2 in enumerate(task.l2s)
        }
        return cls(task, sizes, best)

    def rows(self, size: int) -> Matrix:
        """Return the rows to fit on in the first ``size`` columns of order 0."""
        return np.ascontiguousarray(self.task.fit[:, self.task.orders[0][:size]])


def calibrate(bench: Bench, peer: Peer) -> Tolerance:
    """Find the loosest rung of the ladder, per strength, that reaches the target at every size.

    Where none does (float32 may not allow it), the loosest that is as good as the best.
    """
    told: dict[float, float] = {}
    worst, rung = 0.0, 0
    for l2 in bench.task.l2s:
        for k in bench.sizes:
            rung, found = _climb(bench, peer, (k, l2), rung)
            worst = max(worst, found)
        told[l2] = LADDER[rung]
        tell(f"{peer.name}: l2={l2:g} needs tol={told[l2]:g}")
    return Tolerance(told, worst)


def _climb(bench: Bench, peer: Peer, problem: tuple[int, float], first: int) -> tuple[int, float]:
    """Return the rung that a problem needs, from ``first`` upwards, and the gap it leaves."""
    size, l2 = problem
    x, y = bench.rows(size), bench.task.y_fit
    tried: list[float] = []
    for tol in LADDER[first:]:
        tried.append(gap(x, y, peer.fit(x, y, l2, tol), l2, bench.best[problem]))
        if tried[-1] <= TARGET:
            return first + len(tried) - 1, tried[-1]
        # A loose rung may change nothing on a small problem; on a tight one that is the floor.
        if tol <= _FLOOR_FROM and len(tried) > 2 and tried[-1] > 0.9 * tried[-3]:
            break
    as_good = next(i for i, found in enumerate(tried) if found <= 1.1 * min(tried))
    tell(f"{peer.name}: never within {TARGET:g} at size {size}, l2={l2:g}: {min(tried):.1e}")
    return first + as_good, tried[as_good]


def calibrate_ours(bench: Bench) -> Tolerance:
    """Find the loosest certified tolerance of ours with all true gaps within the target."""
    task, worst, tol = bench.task, np.inf, OUR_LADDER[0]
    for tol in OUR_LADDER:
        fits = fit_probes(task.fit, task.y_fit, task.orders[0], bench.sizes, task.l2s, tol=tol)
        found = [
            gap(bench.rows(k), task.y_fit, Head(*fits.heads[0][j][i]), l2, bench.best[k, l2])
            for j, k in enumerate(bench.sizes)
            for i, l2 in enumerate(task.l2s)
        ]
        worst = max(found)
        if worst <= TARGET:
            break
    tell(f"ours: certified tol={tol:g} leaves gaps up to {worst:.1e}")
    return Tolerance(dict.fromkeys(task.l2s, tol), worst)


@dataclass(frozen=True, eq=False)
class Final:
    """A final fit that a search ended with: order ``seed``, first ``size`` columns."""

    seed: int
    size: int
    l2: float
    head: Head


class Optima:
    """Lower bounds on the optima of final fits, each computed once."""

    def __init__(self, task: Search) -> None:
        self._task = task
        self._known: dict[tuple[int, int, float], float] = {}

    def worst(self, finals: Sequence[Final]) -> float:
        """Return the largest true gap of final fits, on all training rows."""
        y, found = self._task.layer.y_train, -np.inf
        for f in finals:
            x = np.ascontiguousarray(self._task.whole[:, self._task.orders[f.seed][: f.size]])
            key = (f.seed, f.size, f.l2)
            if key not in self._known:
                self._known[key] = optimum(x, y, f.l2)
            found = max(found, gap(x, y, f.head, f.l2, self._known[key]))
        return float(found)
