"""What the second core brings, and how far the solver is from the machine's matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.problems import Layer, Recipe, synthetic
from benchmarks.search import Grid, warm_up
from benchmarks.timing import Seconds, cores, median, tell, timed
from criticalmass.measures.logistic.fit_probes import ProbeFits, fit_probes
from criticalmass.selectors.sizes import sizes_for

_GEMM = (2000, 2048, 500)


@dataclass(frozen=True)
class Cores:
    """What was measured.

    Attributes
    ----------
    work: in words.
    one, all: the same fits on one thread and on all cores.
    n_cores: how many all are.
    solver: useful GFLOP per CPU second of the solver on one thread.
    limit: GFLOP/s of one thread's sgemm.
    """

    work: str
    one: Seconds
    all: Seconds
    n_cores: int
    solver: float
    limit: float


def measure_cores(recipe: Recipe, grid: Grid, repeats: int) -> Cores:
    """Fit one order's grid on one thread and on all, in turn, with sgemm between."""
    warm_up()
    layer = synthetic(recipe)
    sizes = sizes_for(grid.fractions, recipe.n_neurons)
    order = np.random.default_rng(0).permutation(recipe.n_neurons)

    def fits(threads: int) -> ProbeFits:
        return fit_probes(
            layer.x_train, layer.y_train, order, sizes, grid.l2s, tol=1e-5, threads=threads
        )

    alone: list[Seconds] = []
    together: list[Seconds] = []
    limits: list[float] = []
    useful = 0.0
    for run in range(repeats):
        limits.append(sgemm())
        found, seconds = timed(lambda: fits(1))
        useful = _useful(layer, found)
        alone.append(seconds)
        together.append(timed(lambda: fits(cores()))[1])
        tell(f"cores run {run + 1}: {seconds.wall:.2f} s, {together[-1].wall:.2f} s")
    one = median(alone)
    work = (
        f"{len(sizes)} sizes x {len(grid.l2s)} l2, one order, n={recipe.n_train} "
        f"d={recipe.n_neurons} C={recipe.n_classes}, fit_probes(tol=1e-5)"
    )
    return Cores(
        work, one, median(together), cores(), useful / one.cpu / 1e9, float(np.median(limits)) / 1e9
    )


def _useful(layer: Layer, fits: ProbeFits) -> float:
    """Count 4 n k C per pass and problem; the first pass is made once, for the widest alone."""
    n, d = layer.x_train.shape
    passes = fits.passes[0].astype(np.float64) - 1.0
    sizes = np.array(fits.sizes, dtype=np.float64)[:, None]
    return float(4.0 * n * layer.n_classes * ((passes * sizes).sum() + d))


def sgemm(rounds: int = 20) -> float:
    """Return flop/s of one thread's float32 matrix product, the best of some rounds."""
    m, k, n = _GEMM
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, k), dtype=np.float32)
    b = rng.standard_normal((k, n), dtype=np.float32)
    with threadpool_limits(1):
        best = min(timed(lambda: a @ b)[1].wall for _ in range(rounds))
    return 2.0 * m * k * n / best
