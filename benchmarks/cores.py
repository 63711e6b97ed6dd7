"""Speed-up by more cores, and the solver's speed compared with a matrix product (sgemm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.problems import LayerArrays, LayerRecipe, synthetic_layer
from benchmarks.search import SearchGrid, warm_up
from benchmarks.timing import Seconds, core_count, log, median, time_call
from criticalmass.measures.logistic.fit_probes import ProbeFits, fit_probes
from criticalmass.selectors.sizes import sizes_for

_GEMM = (2000, 2048, 500)


@dataclass(frozen=True)
class CoreTimes:
    """Times of the same fits on one core and on all cores.

    Attributes
    ----------
    work: description of the fits.
    one, all: times on one thread and on all cores.
    n_cores: number of cores.
    solver: the solver's useful GFLOP per CPU second on one thread.
    limit: GFLOP/s of one thread's sgemm.
    """

    work: str
    one: Seconds
    all: Seconds
    n_cores: int
    solver: float
    limit: float


def measure_cores(recipe: LayerRecipe, grid: SearchGrid, repeats: int) -> CoreTimes:
    """Fit the grid of one order on one thread and on all cores in turn, and time sgemm."""
    warm_up()
    layer = synthetic_layer(recipe)
    sizes = sizes_for(grid.fractions, recipe.n_neurons)
    order = np.random.default_rng(0).permutation(recipe.n_neurons)

    def fits(threads: int) -> ProbeFits:
        return fit_probes(
            layer.x_train, layer.y_train, order, sizes, grid.l2s, tol=1e-5, threads=threads
        )

    one_thread: list[Seconds] = []
    all_cores: list[Seconds] = []
    limits: list[float] = []
    useful = 0.0
    for run in range(repeats):
        limits.append(sgemm())
        result, seconds = time_call(lambda: fits(1))
        useful = _useful_flop(layer, result)
        one_thread.append(seconds)
        all_cores.append(time_call(lambda: fits(core_count()))[1])
        log(f"cores run {run + 1}: {seconds.wall:.2f} s, {all_cores[-1].wall:.2f} s")
    one = median(one_thread)
    work = (
        f"{len(sizes)} sizes x {len(grid.l2s)} l2, one order, n={recipe.n_train} "
        f"d={recipe.n_neurons} C={recipe.n_classes}, fit_probes(tol=1e-5)"
    )
    return CoreTimes(
        work,
        one,
        median(all_cores),
        core_count(),
        useful / one.cpu / 1e9,
        float(np.median(limits)) / 1e9,
    )


def _useful_flop(layer: LayerArrays, fits: ProbeFits) -> float:
    """Count 4 n k C per pass and problem; the first pass is made once, for the widest only."""
    n, d = layer.x_train.shape
    passes = fits.passes[0].astype(np.float64) - 1.0
    sizes = np.array(fits.sizes, dtype=np.float64)[:, None]
    return float(4.0 * n * layer.n_classes * ((passes * sizes).sum() + d))


def sgemm(rounds: int = 20) -> float:
    """Return the flop/s of a float32 matrix product on one thread, the best of some rounds."""
    m, k, n = _GEMM
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, k), dtype=np.float32)
    b = rng.standard_normal((k, n), dtype=np.float32)
    with threadpool_limits(1):
        best = min(time_call(lambda: a @ b)[1].wall for _ in range(rounds))
    return 2.0 * m * k * n / best
